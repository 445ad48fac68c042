"""A dry run says what the run then does, needs neither weights nor the hub, and leaves nothing behind."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loraweave.bases import load_base
from loraweave.cli import dry_run as printing
from loraweave.cli.app import run as run_command
from loraweave.errors import UserError
from loraweave.estimate import dry_run as module
from loraweave.estimate.dry_run import DryRun, dry_run
from loraweave.estimate.memory import Memory, StepPlan
from loraweave.runs.config import RunConfig
from loraweave.runs.resolve import resolve
from loraweave.training.run import train

QUIET = Console(file=io.StringIO())


def worked_out(project: Path, *overrides: str) -> DryRun:
    return dry_run(RunConfig.load(project / "run.yaml", overrides), project / "out", QUIET)


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of these tests are about the rest, and memory takes seconds."""
    monkeypatch.setattr(module, "_memory", lambda *_: {})


@pytest.mark.parametrize("packing", ["true", "false"])
def test_it_says_what_the_run_then_does(project: Path, without_memory: None, packing: str) -> None:
    overrides = ["mixture={strategy: equal, total: 30}", "method={name: mtllora, r: 2}", f"train.packing={packing}"]
    files = set(project.rglob("*"))
    said = worked_out(project, *overrides)
    assert set(project.rglob("*")) == files
    done = train(RunConfig.load(project / "run.yaml", overrides), project / "out", console=QUIET)
    assert said.steps == done.steps
    assert said.trainable == done.trainable_parameters
    assert said.realised == done.mixture
    assert said.config.train["learning_rate"] == done.learning_rate
    assert said.layers == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2
    )
    assert not said.taken
    assert worked_out(project, *overrides).taken


def test_neither_weights_nor_tokenizer_are_needed(project: Path, without_memory: None) -> None:
    full = worked_out(project, "train.packing=false")
    for file in project.glob("base/*"):
        if file.name != "config.json":
            file.unlink()
    alone = worked_out(project, "train.packing=false")
    assert (alone.parameters, alone.trainable, alone.steps) == (full.parameters, full.trainable, full.steps)
    assert alone.shares == pytest.approx(full.shares)
    assert alone.realised == []  # tokens are counted by a tokenizer
    assert worked_out(project).steps is None  # packed rows too
    with pytest.raises(UserError, match="weights"):
        train(RunConfig.load(project / "run.yaml"), project / "out", console=QUIET)


def test_tasks_whose_data_are_elsewhere_are_described_and_not_counted(project: Path, without_memory: None) -> None:
    said = worked_out(project, "tasks=[boolq, double.yaml, gsm8k]", "mixture=equal")
    boolq, double, gsm8k = said.tasks
    assert (boolq.data, boolq.scored_by, boolq.task) == ("aps/super_glue, boolq", "acc", None)
    assert gsm8k.data == "openai/gsm8k, main"
    assert double.task is not None
    assert said.shares == pytest.approx([1 / 3] * 3)
    assert (said.steps, said.realised) == (None, [])
    assert worked_out(project, "tasks=[boolq, double.yaml]").shares == [None, None]  # in proportion to what?
    assert worked_out(project, "tasks=[boolq]", "train.max_steps=7").steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=Qwen/No-Such-Model", "is neither a folder nor found on the hub.*config.json"),
        ("model=nowhere/at/all", "no such folder"),
        ("tasks=[missing.jsonl]", "missing.jsonl"),
        ("tasks=[boolq, boolq]", "two tasks are called 'boolq'"),
        ("tasks=[truthfulqa_gen]", "has no training split: it can only be evaluated"),
        ("mixture={strategy: weights, weights: {parity: 1}}", "weights lacks"),
        ("method={name: lora, r: 2, target_modules: [no_such_layer]}", "no_such_layer"),
        ("method={name: rlora, r: 100}", "rank 100 is above its size"),
        ("method={name: lora, load_balance: 0.1}", "load_balance needs a router"),
        ("eval.forgetting=[missing.txt]", r"no such file: .*missing\.txt"),
        ("eval.forgetting=[parity.yaml]", "eval.forgetting: 'parity' is what the run is trained on"),
    ],
)
def test_errors_are_those_of_the_run(project: Path, without_memory: None, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        worked_out(project, override)
    assert "\n" not in str(error.value)
    assert not (project / "out").exists()


def test_sizes_of_splits_and_what_is_not_trained_for_are_there(
    project: Path, without_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "story.txt").write_text("Once upon a time. " * 200)
    things = "eval.forgetting=[story.txt, {task: notes.jsonl, name: others}, plain_english, boolq]"
    said = worked_out(project, "tasks=[parity.yaml, double.yaml]", things)
    assert [(one.name, one.scored_by) for one in said.untrained] == [
        ("story", "bits_per_byte"),
        ("others", "held-out loss"),
        ("plain_english", "bits_per_byte"),
        ("boolq", "acc"),  # of which nothing is here
    ]
    assert [one.task is None for one in said.untrained] == [False, False, False, True]
    sizes = [(row["available"], row["validation"], row["test"]) for row in said.realised]
    assert sizes == [(42, 2, 16), (15, 1, 8)]
    printed = io.StringIO()
    monkeypatch.setattr(printing, "console", Console(file=printed, width=200))
    printing.show(said)
    lines = {line.split()[0]: line.split() for line in printed.getvalue().splitlines() if line.strip()}
    assert [word for word in lines["task"] if word in ("train", "valid.", "test")] == ["train", "valid.", "test"]
    assert {"42", "2", "16"} <= {*lines["parity"]}
    text = " ".join(printed.getvalue().split())
    story = said.untrained[0].task
    assert story is not None
    assert f"forgetting story: bits_per_byte, {len(story.test_examples())} examples, {project}/story.txt" in text
    assert "boolq: acc, not at hand, aps/super_glue, boolq" in text


def test_a_task_with_nothing_to_be_scored_on_says_so(project: Path, without_memory: None) -> None:
    (project / "few.jsonl").write_text('{"prompt": "Note:", "completion": " x"}\n')
    config = RunConfig.load(project / "run.yaml", ["tasks=[parity.yaml, few.jsonl]"])
    assert [outline.scored_by for outline in dry_run(config).tasks] == ["acc", "nothing: too few rows"]


def test_the_base_alone_trains_nothing(project: Path) -> None:
    said = worked_out(project, "method=base")
    assert (said.trainable, said.layers, said.memory, said.memory_unknown) == (0, {}, {}, "")


def test_memory_by_device(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    one = worked_out(project).memory
    assert list(one) == ["one GPU", "this CPU"]
    assert one["this CPU"].base == pytest.approx(2 * one["one GPU"].base, rel=0.02)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    sharded = worked_out(project).memory
    assert list(sharded) == ["2 GPUs, FSDP", "4 GPUs, FSDP", "8 GPUs, FSDP"]


@pytest.mark.parametrize(("packing", "tokens"), [("true", 96), ("false", 64)])
def test_memory_is_of_rows_as_long_as_those_of_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, packing: str, tokens: int
) -> None:
    plans: list[StepPlan] = []

    def kept(config: Any, spec: Any, names: Any, plan: StepPlan, *args: Any) -> Memory:
        plans.append(plan)
        return Memory(*[0] * 12)

    monkeypatch.setattr(module, "estimate", kept)
    settings = [f"train.packing={packing}", "train.max_length=96"]  # the base reads 64
    worked_out(project, *settings)
    assert {plan.batch.tokens for plan in plans} == {tokens}
    config = RunConfig.load(project / "run.yaml", settings)
    run = resolve(config, load_base(config.base)[0], project / "out")
    _, rows, _ = run.prepare_data(run.config.load_tasks(), *load_base(config.base), QUIET)
    longest = max(len(rows[index]["input_ids"]) for index in range(len(rows)))
    assert (longest > 64) == (packing == "true")
    assert longest <= tokens


def test_a_model_that_cannot_be_followed_costs_the_estimate_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("needs\nvalues")

    monkeypatch.setattr(module, "estimate", fail)
    said = worked_out(project)
    assert (said.memory, said.memory_unknown) == ({}, "RuntimeError: needs values")


def test_what_is_printed_fits_eighty_columns(
    project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    printed = io.StringIO()
    monkeypatch.setattr(printing, "console", Console(file=printed, width=80))
    before = set(project.rglob("*"))
    command = ["train", str(project / "run.yaml"), "--dry-run", "--set", "method={name: rlora, r: 2}"]
    assert run_command([*command, "--output", str(project / "out")]) == 0
    assert set(project.rglob("*")) == before
    text = printed.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    for fact in (
        "rlora (arXiv 2502.15455)",
        "num_heads 5",
        "q_proj × 2",
        "parity",
        "held-out loss",
        "nothing was trained",
    ):
        assert fact in text


def test_memory_is_known_where_every_task_has_a_head_of_its_own(project: Path) -> None:
    said = worked_out(project, "method={gate: own, down: per_head, r: 2}")
    assert said.memory
    assert not said.memory_unknown
