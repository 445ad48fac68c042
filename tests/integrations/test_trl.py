"""Trainers that know nothing of tasks: with `with_tasks` every row is run with its own task, in every pass.

And two callers that only `loraweave.task` can tell: transformers' pipelines and lm-eval's own model class.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import trl
from few import TELLING, few
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_adapters import preset
from tiny_project import byte_llama, byte_tokenizer
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    pipeline,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

import loraweave
from loraweave import UserError
from loraweave.config import PRESETS
from loraweave.tuner import WeaveLinear
from loraweave.tuner.task_ids import per_token

NAMES = ["add", "bend", "cut"]
MARKS = "ABC"  # every prompt starts with the letter of its task, and no fixed text has such a letter elsewhere
TOKENIZER = byte_tokenizer()
MARK_IDS = {TOKENIZER.convert_tokens_to_ids(mark): task for task, mark in enumerate(MARKS)}


def adapted(name: str) -> PeftModel:
    if name == "lora":
        config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    else:
        config = preset(name, r=2, task_names=NAMES, lora_dropout=0.0, task_type="CAUSAL_LM")
    return get_peft_model(byte_llama(), config)


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Prompts of several lengths; tasks by name, in no regular order."""
    order = [0, 2, 1, 1, 0, 2, 2, 1, 0, 1, 2, 0]
    return [{"prompt": MARKS[task] + "xyz"[: 1 + i % 3], "task": NAMES[task]} for i, task in enumerate(order[:count])]


class Watch:
    """Compares, at every call of an adapted layer, the tasks that it goes by with the marks in the rows it is run on.

    Attributes:
        seen: how many rows were right, by kind of pass: (training, the layer's adapters, generating).
        wrong: what was not right.
        grads: of each trained tensor, the largest gradient of each of its rows.
    """

    def __init__(self, model: PeftModel, packed: bool = False) -> None:
        self.packed = packed
        self.seen: Counter[tuple[bool, str, bool]] = Counter()
        self.wrong: list[str] = []
        self.grads: dict[str, torch.Tensor] = {}
        self.expected = torch.empty(0)
        model.get_input_embeddings().register_forward_pre_hook(self.embed)
        for module in model.modules():
            if isinstance(module, WeaveLinear):
                module.register_forward_pre_hook(self.layer)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.grads[name] = torch.zeros(len(parameter))
                parameter.register_post_accumulate_grad_hook(lambda p, name=name: self.grad(name, p))

    def grad(self, name: str, parameter: nn.Parameter) -> None:
        self.grads[name] = torch.maximum(self.grads[name], parameter.grad.abs().flatten(1).amax(1))

    def embed(self, module: nn.Module, args: tuple) -> None:
        (tokens,) = args
        self.generating = tokens.shape[1] == 1
        if self.generating:  # the rows of the call before
            self.expected = self.expected[:, -1:]
            return
        self.expected = torch.full_like(tokens, -1)
        for row, out in zip(tokens.tolist(), self.expected, strict=True):
            task = None
            for i, token in enumerate(row):
                if token in MARK_IDS and (self.packed or task is None):
                    task = MARK_IDS[token]
                if task is not None and token != 0:
                    out[i] = task

    def layer(self, module: WeaveLinear, args: tuple) -> None:
        (x,) = args
        ids = module.call_context.ids(NAMES, x.device)
        got = per_token(torch.arange(len(NAMES)), ids, x.shape[:-1]).expand(x.shape[:-1])
        real = self.expected >= 0
        if got.shape != real.shape or not torch.equal(got[real], self.expected[real]):
            self.wrong.append(f"{module.layer_name}: {got.tolist()} for {self.expected.tolist()}")
        adapters = "off" if module.disable_adapters else "+".join(module.active_adapters)
        self.seen[torch.is_grad_enabled(), adapters, self.generating] += len(x)

    def check(self, name: str, *passes: tuple[bool, str, bool]) -> None:
        """Every pass of these kinds has been seen, every one was right, and every tensor has had a gradient."""
        assert not self.wrong, self.wrong[0]
        if name != "lora":
            assert set(passes) == set(self.seen)
        for parameter, largest in self.grads.items():
            by_task = "task_logits" in parameter or "task_transform" in parameter or "task_embedding" in parameter
            assert (largest > 0).all() if by_task else largest.max() > 0, parameter


def arguments(kind: type, folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder),
        **{
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            **more,
        },
    )


METHODS = [*PRESETS, "lora"]
REFERENCES = [
    *(pytest.param(name, "another adapter", marks=() if name in TELLING else pytest.mark.long) for name in METHODS),
    ("mtllora", "adapter off"),
    ("mtllora", "computed before"),
]
TRAIN, EVALUATE = (True, "default", False), (False, "default", False)


@pytest.mark.parametrize("name", few(METHODS))
def test_trainer(tmp_path: Path, name: str) -> None:
    model = adapted(name)
    watch = Watch(model)
    data = datasets.Dataset.from_list([{**TOKENIZER(row["prompt"] + "q"), "task": row["task"]} for row in rows()])
    data = data.map(lambda row: {"labels": row["input_ids"]})
    trainer = loraweave.with_tasks(Trainer)(
        model=model,
        args=arguments(TrainingArguments, tmp_path, label_names=["labels"]),
        data_collator=DataCollatorForSeq2Seq(TOKENIZER),
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    watch.check(name, TRAIN, EVALUATE)


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("name", few(METHODS))
def test_sft(tmp_path: Path, name: str, padding_free: bool) -> None:
    model = adapted(name)
    watch = Watch(model, packed=padding_free)
    data = datasets.Dataset.from_list([{**row, "completion": "vw"} for row in rows()])
    trainer = loraweave.with_tasks(SFTTrainer)(
        model=model,
        args=arguments(
            SFTConfig,
            tmp_path,
            padding_free=padding_free,
            max_length=None if padding_free else 64,
            gradient_checkpointing=name == "mtllora",
        ),
        processing_class=TOKENIZER,
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    trainer.evaluate()
    watch.check(name, TRAIN, EVALUATE)


def test_sft_on_rows_packed_beforehand(tmp_path: Path) -> None:
    model = adapted("mtllora")
    watch = Watch(model, packed=True)
    examples = [(TOKENIZER(row["prompt"] + "vw")["input_ids"], row["task"]) for row in rows()]
    data = datasets.Dataset.from_list(
        [{"input_ids": ids, "labels": ids, "task": [task] * len(ids)} for ids, task in examples]
    )
    trainer = loraweave.with_tasks(SFTTrainer)(
        model=model,
        args=arguments(SFTConfig, tmp_path, padding_free=True, max_length=None, per_device_train_batch_size=2),
        processing_class=TOKENIZER,
        train_dataset=trl.pack_dataset(data, 14, "bfd"),
    )
    trainer.train()
    watch.check("mtllora", TRAIN)


@pytest.mark.parametrize(("name", "reference"), REFERENCES)
def test_dpo(tmp_path: Path, name: str, reference: str) -> None:
    model = adapted(name)
    data = datasets.Dataset.from_list([{**row, "chosen": "uv", "rejected": "wvw"} for row in rows()])
    settings: dict[str, Any] = {"precompute_ref_log_probs": reference == "computed before"}
    more: dict[str, Any] = {}
    if reference == "adapter off":
        more["peft_config"] = model.peft_config["default"]
        model = byte_llama()
    if reference == "computed before":
        watch = Watch(model)
    trainer = loraweave.with_tasks(DPOTrainer)(
        model=model,
        args=arguments(DPOConfig, tmp_path, **settings),
        processing_class=TOKENIZER,
        train_dataset=data,
        eval_dataset=data,
        **more,
    )
    if reference != "computed before":
        watch = Watch(trainer.model)
    trainer.train()
    trainer.evaluate()
    adapters = {"another adapter": "ref", "adapter off": "off", "computed before": "ref"}[reference]
    watch.check(name, TRAIN, EVALUATE, (False, adapters, False))


def reward(completions: list[str], task: list[str], **kwargs: Any) -> list[float]:
    """Differs within a group, and is told the tasks, as other columns are."""
    assert set(task) <= set(NAMES)
    return [sum(map(ord, completion)) % 17 + NAMES.index(t) for completion, t in zip(completions, task, strict=True)]


@pytest.mark.parametrize("name", few(METHODS))
def test_grpo(tmp_path: Path, name: str) -> None:
    model = adapted(name)
    watch = Watch(model)
    data = datasets.Dataset.from_list(rows())
    trainer = loraweave.with_tasks(GRPOTrainer)(
        model=model,
        args=arguments(
            GRPOConfig,
            tmp_path,
            max_steps=4,
            num_generations=2,
            steps_per_generation=2,  # 8 rows are generated together, scored in chunks of 4, shuffled and split
            max_completion_length=4,
            beta=0.1,
            remove_unused_columns=True,
        ),
        processing_class=TOKENIZER,
        reward_funcs=reward,
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    trainer.evaluate()
    watch.check(name, TRAIN, EVALUATE, (False, "default", True), (False, "ref", False))


def sft(folder: Path, data: list[dict[str, Any]], **settings: Any) -> Trainer:
    more = {name: settings.pop(name) for name in ("data_collator",) if name in settings}
    return loraweave.with_tasks(SFTTrainer)(
        model=adapted("mtllora"),
        args=arguments(SFTConfig, folder, **settings),
        processing_class=TOKENIZER,
        train_dataset=datasets.Dataset.from_list(data),
        **more,
    )


def test_data_without_a_task_is_an_error(tmp_path: Path) -> None:
    told = [{**row, "completion": "vw"} for row in rows()]
    with pytest.raises(UserError, match="no column 'task' with the task of each row, only prompt, tasks, completion"):
        sft(tmp_path, [{"prompt": r["prompt"], "tasks": r["task"], "completion": "v"} for r in told])
    with pytest.raises(UserError, match=r"unknown task 'mend', did you mean 'bend'.*add, bend, cut"):
        sft(tmp_path, [{**row, "task": "mend"} for row in told]).train()
    with pytest.raises(UserError, match="task id 3 is out of range"):
        sft(tmp_path, [{**row, "task": 3} for row in told]).train()


def test_numbers_that_stand_for_other_tasks_are_refused(tmp_path: Path) -> None:
    """A column of `datasets.ClassLabel` has numbers of its own for the names."""
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    plain = datasets.Dataset.from_list([{"input_ids": [5, 6], "task": "bend"}, {"input_ids": [5, 6], "task": "add"}])
    for labels in (["bend", "add"], ["bend", "add", "cut"], ["add", "cut"]):
        labelled = plain.filter(lambda row, kept=labels: row["task"] in kept)
        labelled = labelled.cast_column("task", datasets.ClassLabel(names=labels))
        for given in ({"train_dataset": labelled}, {"eval_dataset": {"held out": labelled}}):
            with pytest.raises(UserError, match=r"numbers the tasks .* as .*, the adapter as add, bend, cut"):
                loraweave.with_tasks(Trainer)(model=adapted("own"), args=args, **given)
    aligned = plain.cast_column("task", datasets.ClassLabel(names=["bend", "add", "cut"]))
    aligned = aligned.align_labels_with_mapping({name: number for number, name in enumerate(NAMES)}, "task")
    assert [batch["task"] for batch in aligned] == [1, 0]
    loraweave.with_tasks(Trainer)(model=adapted("own"), args=args, train_dataset=aligned)


def test_settings_under_which_rows_would_lose_their_tasks(tmp_path: Path) -> None:
    told = [{**row, "completion": "vw"} for row in rows()]
    with pytest.raises(UserError, match=r"packing.*trl\.pack_dataset"):
        sft(tmp_path, told, packing=True, max_length=16)
    with pytest.raises(UserError, match="rollout_func"):
        loraweave.with_tasks(GRPOTrainer)(
            model=adapted("mtllora"),
            args=arguments(GRPOConfig, tmp_path, num_generations=2),
            processing_class=TOKENIZER,
            reward_funcs=reward,
            rollout_func=lambda prompts, trainer: {},
            train_dataset=datasets.Dataset.from_list(rows()),
        )


def test_tasks_per_token_must_fit_the_tokens(tmp_path: Path) -> None:
    tokens = [TOKENIZER(row["prompt"])["input_ids"] for row in rows()]
    fitting = [{"input_ids": ids, "labels": ids, "task": [0] * len(ids)} for ids in tokens]
    with pytest.raises(UserError, match=r"has 1 tasks for a row of \d tokens"):
        sft(tmp_path, [{**row, "task": [0]} for row in fitting]).train()
    left = DataCollatorForSeq2Seq(byte_tokenizer())
    left.tokenizer.padding_side = "left"
    with pytest.raises(UserError, match="pad them at the end"):
        sft(tmp_path, fitting, data_collator=left).train()


def test_trainers_that_are_not_known() -> None:
    with pytest.raises(UserError, match=r"KTOTrainer.*SFTTrainer, DPOTrainer, GRPOTrainer"):
        loraweave.with_tasks(trl.KTOTrainer)
    with pytest.raises(UserError, match="takes a trainer's class"):
        loraweave.with_tasks(object())


@pytest.fixture
def told_apart() -> PeftModel:
    """A model that says something else for each task."""
    model = adapted("mtllora").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weave_B" in name or "weave_task" in name:
                parameter.normal_(std=0.5 if "weave_B" in name else 3.0)
    return model


PROMPTS = ["Ax", "Byz", "Cabc", "Ade"]


def test_pipeline(told_apart: PeftModel) -> None:
    pipe = pipeline("text-generation", model=told_apart, tokenizer=TOKENIZER, device="cpu")
    length: dict[str, Any] = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}
    options = {**length, "return_tensors": True}

    def tokens(outputs: list) -> list[list[int]]:
        return [list(output[0]["generated_token_ids"])[-5:] for output in outputs]

    def alone(prompt: str, task: str) -> list[int]:
        ids = TOKENIZER(prompt, return_tensors="pt")["input_ids"]
        made = told_apart.generate(input_ids=ids, tasks=task, **length)
        return made[0, ids.shape[1] :].tolist()

    for task in NAMES:
        with loraweave.task(told_apart, task):
            assert tokens(pipe(PROMPTS, batch_size=2, **options)) == [alone(prompt, task) for prompt in PROMPTS]
    assert len({tuple(alone(PROMPTS[0], task)) for task in NAMES}) == len(NAMES)
    tasks = ["cut", "add", "bend", "add"]
    with loraweave.task(told_apart, tasks):
        expected = [alone(prompt, task) for prompt, task in zip(PROMPTS, tasks, strict=True)]
        assert tokens(pipe(PROMPTS, batch_size=4, **options)) == expected
    with pytest.raises(UserError, match="needs to know the task"):
        pipe(PROMPTS, **options)


def test_plain_lm_eval_model(told_apart: PeftModel) -> None:
    lm = HFLM(pretrained=told_apart, tokenizer=TOKENIZER, batch_size=3)
    endings = [" ok", " no", " yes", "!"]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(zip(PROMPTS, endings, strict=True))]
    for task in NAMES:
        with loraweave.task(told_apart, task):
            got = [logprob for logprob, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        for prompt, ending, logprob in zip(PROMPTS, endings, got, strict=True):
            ids = TOKENIZER(prompt + ending, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logprobs = told_apart(input_ids=ids, tasks=task).logits[0, :-1].log_softmax(-1)
            each = logprobs.gather(1, ids[0, 1:, None]).flatten()
            assert logprob == pytest.approx(each[-len(ending) :].sum().item(), rel=1e-4)
    with pytest.raises(UserError, match="needs to know the task"):
        lm.loglikelihood(requests, disable_tqdm=True)
