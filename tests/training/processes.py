"""What each of the processes of `test_processes.py` runs: `python processes.py runs JOBS` or `… by_hand METHODS`."""

import io
import json
import os
import sys

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import get_peft_model, get_peft_model_state_dict
from rich.console import Console
from tiny_adapters import preset
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from loraweave.runs.config import RunConfig
from loraweave.training.run import train


def shard_on_cpus_too() -> None:
    """accelerate leaves FSDP out where the processes have CPUs alone, though torch can do it: undo that."""
    plain = AcceleratorState.__init__

    def start(self, *args, fsdp_plugin=None, **kwargs):
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
        if getattr(self, "fsdp_plugin", None) is not None:
            self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = start


def runs(jobs: list[tuple[str, list[str], bool]]) -> None:
    """Runs of run.yaml one after the other: (output, overrides, whether to resume)."""
    shard_on_cpus_too()
    for output, overrides, resume in jobs:
        os.environ.pop("ACCELERATE_USE_FSDP", None)  # how accelerate remembers the job before
        config = RunConfig.load("run.yaml", overrides)
        train(config, output, console=Console(file=io.StringIO()), resume=resume)


NAMES = ["a", "b"]


def model_for(name: str):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
    config = preset(name, r=2, task_names=NAMES, lora_dropout=0.0, init_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def by_hand(methods: list[str]) -> None:
    """`fully_shard` on a PEFT model's blocks, each process with half of the batch: the gradients, the generated tokens
    and the gathered adapter of one process with all of it."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    ids = torch.randint(3, 32, (4, 7), generator=torch.Generator().manual_seed(0))
    tasks = torch.tensor([0, 1, 1, 0])
    other = torch.ones_like(ids)
    mine = slice(rank * 2, rank * 2 + 2)
    for name in methods:
        for checkpointing in (False, True):
            whole, model = model_for(name), model_for(name)
            for block in model.base_model.model.model.layers:
                fully_shard(block)
            fully_shard(model)
            dist.fsdp.register_fsdp_forward_method(model, "generate")
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.train()
            for part, rows in ((whole, slice(None)), (model, mine)):
                loss = part(input_ids=ids[rows], labels=ids[rows], tasks=tasks[rows]).loss
                again = part(input_ids=ids[rows], labels=ids[rows], tasks=other[rows]).loss
                (loss + 3 * again).backward()
            for (key, expected), (_, got) in zip(whole.named_parameters(), model.named_parameters(), strict=True):
                assert isinstance(got, DTensor), key
                assert (expected.grad is None) == (got.grad is None), key
                if got.grad is not None:
                    torch.testing.assert_close(got.grad.full_tensor(), expected.grad)
            whole.eval()
            model.eval()
            options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
            expected = whole.generate(input_ids=ids[mine], tasks=tasks[mine], **options)
            assert torch.equal(model.generate(input_ids=ids[mine], tasks=tasks[mine], **options), expected)
            saved = get_peft_model_state_dict(model)
            for key, value in get_peft_model_state_dict(whole).items():
                torch.testing.assert_close(saved[key].full_tensor(), value, rtol=0, atol=0)
    assert size == 2
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "by_hand":
        by_hand(sys.argv[2].split(","))
    else:
        runs(json.loads(sys.argv[2]))
