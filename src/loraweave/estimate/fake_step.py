"""What one step holds in memory, counted on tensors that have shapes and no values: any size of model, on any machine.

The model, the method, the trainer's forward pass, autocast, checkpointing and the backward pass are the real ones;
only the tensors are PyTorch's fake ones. So what autograd keeps is not modelled, it is added up. What is inside an
operation (a kernel's scratch memory) is not seen.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig, masking_utils
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from loraweave.lowrank import by_head, dropping
from loraweave.quiet import quiet_libraries
from loraweave.runs.filling import train_only
from loraweave.runs.language import freeze_beside_language
from loraweave.runs.methods import MethodSpec, choose_method
from loraweave.training.head import hidden_states_at
from loraweave.tuner.context import CallContext


@dataclass(frozen=True)
class Batch:
    """The shape of a batch.

    Args:
        rows, tokens: per device and micro-batch.
        packed: rows hold several examples, so that attention needs a mask of (rows, 1, tokens, tokens).
    """

    rows: int
    tokens: int
    packed: bool


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made while this mode is on.

    Args:
        before: tensors that are there already, of which views may be taken.

    Attributes:
        now, most: of all that are alive.
        gradients, gradients_at_most: of parameters' gradients among them, now and when `most` was reached.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = self.gradients = self.gradients_at_most = 0
        self._known = {id(tensor.untyped_storage()) for tensor in before}
        self._with_gradient: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def note_gradient(self, parameter: Tensor) -> None:
        """A hook for parameters: their gradient is there and stays."""
        if id(parameter) not in self._with_gradient:
            self._with_gradient.add(id(parameter))
            self.gradients += parameter.numel() * parameter.element_size()

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._forget, key, size).atexit = False
        self.now += size
        if self.now > self.most:
            self.most, self.gradients_at_most = self.now, self.gradients

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Step:
    """What a step held beyond weights and optimizer states, in bytes.

    Attributes:
        most: at any time.
        kept: for the backward pass, at the end of the forward pass.
        gradients: of the trained parameters, at the time of `most`.
    """

    most: int
    kept: int
    gradients: int


class FakeModel:
    """A base with a method's adapter, all fake.

    Args:
        config: of the base.
        spec: the method.
        task_names: the run's tasks.
        dtype: of the base's weights.
        only: what of the adapter is trained alone; None for all of it.
        autocast: the type that training computes in, where it is not the weights' own.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        spec: MethodSpec,
        task_names: Sequence[str],
        dtype: torch.dtype,
        only: str | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        method = choose_method(spec)
        everything = method.method.trains == "everything"
        with quiet_libraries(), torch.device("meta"):
            self.base = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if everything else dtype)
            self.model: nn.Module = self.base
            self.base_bytes = bytes_of(self.base)
            if (peft_config := method.peft_config(task_names, self.base)) is not None:
                self.model = get_peft_model(self.base, peft_config)
                if only is not None:
                    train_only(self.model, only, method.name)
            elif everything:
                self.base.requires_grad_(True)
                freeze_beside_language(self.base)
        for parameter in self.model.parameters() if autocast is not None else ():
            if parameter.requires_grad:  # as MultiTaskTrainer has it
                parameter.data = parameter.data.float()
        self.adapter_bytes = bytes_of(self.model) - self.base_bytes
        add_fused_lm_head(self.base)
        self.fake = FakeTensorMode()
        with self.fake:
            _to_cpu(self.model)
        self._tensors = [*self.model.parameters(), *self.model.buffers()]
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def train(
        self, batch: Batch, *, autocast: torch.dtype | None, checkpointing: bool, accumulate: bool, on_gpu: bool
    ) -> Step:
        """Forward and backward pass of a batch in which every row is full and every position is scored.

        Args:
            batch: its shape.
            autocast: compute in this type.
            checkpointing: keep the input of each block alone, and run it again in the backward pass.
            accumulate: gradients of an earlier micro-batch are there already.
            on_gpu: with the operations that a GPU would run where they differ from a CPU's in what they keep.
        """
        self.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        held = Held(self._tensors)
        hooks = [p.register_post_accumulate_grad_hook(held.note_gradient) for p in self.trained]
        try:
            with self.fake, _shapes_alone(batch, on_gpu), held:
                for _ in range(1 + accumulate):
                    loss = self._loss(batch, autocast)
                    kept = held.now - held.gradients
                    loss.backward()
                    del loss
        finally:
            for hook in hooks:
                hook.remove()
            for p in self.trained:
                p.grad = None
            if checkpointing:
                self.model.gradient_checkpointing_disable()
                self.model.disable_input_require_grads()
        return Step(held.most, kept, held.gradients_at_most)

    def validate(self, batch: Batch, *, autocast: torch.dtype | None, on_gpu: bool) -> Step:
        """A forward pass alone, as `train` has it."""
        self.model.eval()
        with self.fake, torch.no_grad(), _shapes_alone(batch, on_gpu), Held(self._tensors) as held:
            self._loss(batch, autocast)
        return Step(held.most, 0, 0)

    def _loss(self, batch: Batch, autocast: torch.dtype | None) -> Tensor:
        """As `MultiTaskTrainer.compute_loss`."""
        shape = batch.rows, batch.tokens
        positions = batch.rows * batch.tokens
        scored = torch.zeros(positions, dtype=torch.long)
        with torch.autocast("cpu", autocast, enabled=autocast is not None), hidden_states_at(self.base, scored):
            outputs = self.model(
                input_ids=torch.zeros(shape, dtype=torch.long),
                shift_labels=torch.zeros(1, positions, dtype=torch.long),
                use_cache=False,
                fused_lm_head=True,
            )
        return -outputs.log_probs.flatten().sum() / positions


@contextmanager
def _shapes_alone(batch: Batch, on_gpu: bool) -> Iterator[None]:
    """Put shapes in the place of what would look at values, and a GPU's operations in the place of a CPU's."""
    ids = torch.zeros(batch.rows, batch.tokens, dtype=torch.long)

    def dropped(numel: int, p: float, device: torch.device) -> Tensor:
        return torch.rand(numel) < p if on_gpu else torch.zeros(int(numel * p), dtype=torch.long)

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(x, p, training)[0] if training and p else x

    def nothing(*args: Any, **kwargs: Any) -> None:
        """A kernel that works in place."""

    def all_of_one_head(rows: by_head.HeadRows) -> tuple[Tensor, list[tuple[int, int]]]:
        return torch.zeros(rows.count, dtype=torch.long), [(0, rows.count)]

    def examples_in_rows(position_ids: Tensor) -> Tensor | None:
        return torch.zeros_like(position_ids) if batch.packed else None

    with ExitStack() as stack:
        stack.enter_context(patch.object(masking_utils, "find_packed_sequence_indices", examples_in_rows))
        stack.enter_context(patch.object(CallContext, "ids", lambda *_: ids))
        stack.enter_context(patch.object(dropping, "dropped", dropped))
        stack.enter_context(patch.object(by_head.HeadRows, "segments", property(all_of_one_head)))
        stack.enter_context(patch.object(by_head, "few", lambda *_: False))  # which heads there are hangs on the data
        if on_gpu:
            stack.enter_context(patch.object(nn.functional, "dropout", dropout))
            for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
                stack.enter_context(patch.object(chunked_logprob, name, nothing))
        yield


def _to_cpu(model: nn.Module) -> None:
    """Give every tensor on the meta device a fake one on the CPU, where autocast works; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                tensors[name] = None if old is None else made[id(old)]


def bytes_of(model: nn.Module) -> int:
    """Of all parameters and buffers, each once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
