"""A whole run: its folder, going on after an interruption, and what it refuses."""

import io
import json
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from few import few
from rich.console import Console
from safetensors.torch import load_file
from tiny_project import write_base
from tiny_training import run
from trl import SFTTrainer

from loraweave.bases import load_base
from loraweave.errors import UserError
from loraweave.runs.checkpoints import newest_whole
from loraweave.runs.config import RunConfig
from loraweave.runs.loading import load_run
from loraweave.training.progress import ProgressBar
from loraweave.training.run import train
from loraweave.training.trainer import MultiTaskTrainer


class Steps:
    """A progress display that remembers, and can stop the run as Ctrl-C would."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.seen: list[tuple[int, float | None, float]] = []
        self.interrupt_at = interrupt_at
        self.stopped = 0
        self.total = 0

    def start(self, name: str, total: int) -> None:
        self.total = total

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        self.seen.append((step, loss, tokens_per_second))
        if step == self.interrupt_at:
            raise KeyboardInterrupt

    def stop(self) -> None:
        self.stopped += 1


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("method", ["lora", "rlora"])
def test_a_run_leaves_all_that_is_needed_to_know_and_use_it(project: Path, method: str) -> None:
    printed, steps = io.StringIO(), Steps()
    result = run(project, f"method={{name: {method}, r: 2}}", console=Console(file=printed, width=120), progress=steps)
    out = project / "out"
    assert steps.total == len(steps.seen) == result.steps
    assert steps.stopped == 1
    for name in ("parity", "double", "notes"):
        assert name in printed.getvalue()

    assert RunConfig.load(out / "run.yaml").train["lr_scheduler_type"] == "cosine"
    environment = json.loads((out / "environment.json").read_text())
    assert environment["packages"]["peft"]
    assert json.loads((out / "mixture.json").read_text()) == result.mixture
    assert sum(task["tokens"] for task in result.mixture) == result.tokens
    assert [task["passes"] for task in result.mixture] == [2.0, 2.0, 2.0]
    assert list((out / "tensorboard").iterdir())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["peak_memory"] > 0
    assert summary["trainable_parameters"] == result.trainable_parameters > 0
    assert result.seconds > 0

    logged = metrics(out)
    training = [line for line in logged if "loss" in line]
    validation = [line for line in logged if "eval_loss" in line]
    assert [line["step"] for line in training] == list(range(1, result.steps + 1))
    assert training[-1]["tokens"] == result.tokens
    assert {"loss/parity", "loss/double", "loss/notes"} <= set().union(*training)
    assert len(validation) == 2
    assert validation[-1]["eval_loss_macro"] == pytest.approx(
        sum(validation[-1][f"eval_loss/{name}"] for name in ("parity", "double", "notes")) / 3
    )
    assert result.best_loss == pytest.approx(min(line["eval_loss_macro"] for line in validation))
    assert training[-1]["loss"] < training[0]["loss"]

    loaded = load_run(out)
    assert loaded.summary["method"] == method
    assert [task.name for task in loaded.tasks] == ["parity", "double", "notes"]
    assert not loaded.model.training
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        adapted = loaded.model(input_ids=ids).logits
        loaded.release()
        base = loaded.model(input_ids=ids).logits
    assert torch.equal(base, load_base(project / "base")[0](input_ids=ids).logits)
    assert not torch.allclose(adapted, base)


def test_full_fine_tuning_saves_a_model_and_base_saves_none(project: Path) -> None:
    shared, tasks = load_base(project / "base"), RunConfig.load(project / "run.yaml").load_tasks()
    before = {name: value.clone() for name, value in shared[0].state_dict().items()}
    full = run(project, "method=full", output=project / "full", base=shared, tasks=tasks)
    untouched = run(project, "method=base", output=project / "none", base=shared, tasks=tasks)
    assert all(torch.equal(value, before[name]) for name, value in shared[0].state_dict().items())
    assert full.adapter == project / "full" / "model"
    assert full.trainable_parameters == sum(p.numel() for p in shared[0].parameters())
    changed = load_run(project / "full").model.state_dict()
    assert any(not torch.equal(changed[name], value) for name, value in before.items())
    assert (untouched.adapter, untouched.trainable_parameters, untouched.steps) == (None, 0, 0)
    same = load_run(project / "none").model.state_dict()
    assert all(torch.equal(same[name], value) for name, value in before.items())


def test_a_base_whose_generation_config_contradicts_itself_is_trained_and_saved(project: Path) -> None:
    said = {"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 5]}
    (project / "base" / "generation_config.json").write_text(json.dumps(said))
    run(project, "method=full", "train.max_steps=1", output=project / "full")
    saved = json.loads((project / "full" / "model" / "generation_config.json").read_text())
    assert said.items() <= saved.items()


def test_the_same_seed_gives_the_same_run_and_all_methods_the_same_data(project: Path) -> None:
    first = run(project, output=project / "first")
    again = run(project, output=project / "again")
    other = run(project, "seed=1", output=project / "other")
    hydra = run(project, "method=hydralora", output=project / "hydra")
    assert all(torch.equal(value, adapter(again.folder)[name]) for name, value in adapter(first.folder).items())
    assert any(not torch.equal(value, adapter(other.folder)[name]) for name, value in adapter(first.folder).items())
    tokens = [[line["tokens"] for line in metrics(r.folder) if "loss" in line] for r in (first, again, hydra)]
    assert tokens[0] == tokens[1] == tokens[2]
    start = [next(line for line in metrics(r.folder) if "loss" in line) for r in (first, hydra, other)]
    assert start[1]["loss"] == pytest.approx(start[0]["loss"], rel=1e-4)  # both start as the base, on the same batch
    assert start[2]["loss"] != pytest.approx(start[0]["loss"], rel=1e-4)


def test_a_run_goes_on_where_it_was_interrupted(project: Path) -> None:
    settings = ("train.save_strategy=steps", "train.save_steps=2", "train.packing=false", "method.lora_dropout=0.1")
    whole = run(project, *settings, output=project / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings, progress=Steps(interrupt_at=whole.steps // 2 + 3))
    (project / "out" / "checkpoints" / "checkpoint-999").mkdir()  # half a checkpoint, left by a crash
    with pytest.raises(UserError, match="did not finish"):
        load_run(project / "out")
    steps = Steps()
    resumed = run(project, *settings, progress=steps, resume=True)
    assert 1 < steps.seen[0][0] <= whole.steps // 2 + 4
    assert resumed.steps == whole.steps
    for name, value in adapter(whole.folder).items():
        torch.testing.assert_close(adapter(resumed.folder)[name], value, atol=1e-6, rtol=1e-4)
    lines, expected = metrics(resumed.folder), metrics(whole.folder)
    assert [(line["step"], line["tokens"]) for line in lines] == [(line["step"], line["tokens"]) for line in expected]


def test_a_folder_that_holds_a_run_is_not_written_over(project: Path) -> None:
    run(project, "train.max_steps=1")
    before = {path: path.stat().st_mtime_ns for path in (project / "out").rglob("*")}
    with pytest.raises(UserError, match="already holds a run"):
        run(project, "train.max_steps=2")
    with pytest.raises(UserError, match="is finished"):
        run(project, "train.max_steps=1", resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in (project / "out").rglob("*")}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("tasks=[parity.yaml, absent.yaml]", "no such task file"),
        ("method={name: lora, target_modules: [nope]}", "Target modules"),
        ("mixture={strategy: weights, weights: {parity: 1}}", "weights lacks"),
        ("train.max_length=1", "raise max_length"),
    ],
)
def test_a_run_that_never_began_leaves_no_folder(project: Path, wrong: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(project, wrong)
    assert not (project / "out").exists()


def test_a_folder_with_a_run_file_alone_is_left_alone(project: Path) -> None:
    before = (project / "run.yaml").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        run(project, "tasks=[absent.yaml]", output=project)
    assert (project / "run.yaml").read_bytes() == before


@pytest.mark.parametrize("method", few(["lora", "hydralora"], ["hydralora"]))
def test_a_run_stopped_after_its_last_checkpoint_has_no_step_left(
    project: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    settings = (
        f"method={{name: {method}, r: 2}}",
        "train.max_steps=3",
        "train.save_strategy=steps",
        "train.save_steps=1",
        "train.packing=false",
        "train.lr_scheduler_type=constant",
    )
    whole = run(project, *settings, output=project / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("loraweave.training.run._save", stops)
        with pytest.raises(KeyboardInterrupt):
            run(project, *settings)
    steps = Steps()
    resumed = run(project, *settings, progress=steps, resume=True)
    assert resumed.steps == whole.steps == 3
    assert steps.seen == []
    assert all(torch.equal(value, adapter(whole.folder)[name]) for name, value in adapter(resumed.folder).items())
    files = [folder / "routing.json" for folder in (whole.folder, resumed.folder)]
    assert [file.is_file() for file in files] == [method == "hydralora"] * 2
    if method == "hydralora":
        assert files[0].read_text() == files[1].read_text()


@pytest.mark.parametrize(
    ("line", "told"),
    [(b"x}", "line 2: a JSON object"), (b'"\xff"', "line 2: a JSON object"), (b'{"loss": 1.0}', "line 2: .*'step'")],
)
def test_a_broken_line_of_the_metrics_is_named_and_a_torn_end_mended(project: Path, line: bytes, told: str) -> None:
    settings = ("train.max_steps=3", "train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=no")
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings, progress=Steps(interrupt_at=2))
    path = project / "out" / "metrics.jsonl"
    logged = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([logged[0], line + b"\n", *logged[1:]]))
    with pytest.raises(UserError, match=told):
        run(project, *settings, resume=True)
    path.write_bytes(b"".join(logged) + b'{"step": 2, "lo')
    run(project, *settings, resume=True)
    assert [logged["step"] for logged in metrics(project / "out") if "loss" in logged] == [1, 2, 3]


def test_another_configuration_cannot_be_resumed(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, progress=Steps(interrupt_at=3))
    with pytest.raises(UserError, match=r"train\.learning_rate was 0\.01 and is now 0\.5"):
        run(project, "train.learning_rate=0.5", resume=True)
    run(project, "eval.limit=3", resume=True)  # scoring is not part of the training


def test_the_wrong_base_is_refused(project: Path) -> None:
    run(project, "train.max_steps=1")
    shutil.rmtree(project / "base")
    write_base(project / "base", seed=1)
    with pytest.raises(UserError, match="is not the one the adapter was trained on"):
        load_run(project / "out")


def test_the_best_checkpoint_is_chosen_by_the_mean_over_tasks(project: Path) -> None:
    other = [{"prompt": f"Note {n}:", "completion": " QQQQ"} for n in range(8)]  # what training makes less likely
    (project / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    result = run(
        project,
        "tasks=[{task: notes.jsonl, validation: other.jsonl}]",
        "train.load_best_model_at_end=true",
        "train.eval_strategy=steps",
        "train.save_strategy=steps",
        "train.eval_steps=1",
        "train.save_steps=1",
        "train.lr_scheduler_type=constant",
    )
    losses = {line["step"]: line["eval_loss_macro"] for line in metrics(result.folder) if "eval_loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert best < result.steps
    assert result.best_step == best
    kept = result.folder / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors"
    assert all(torch.equal(value, load_file(kept)[name]) for name, value in adapter(result.folder).items())


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(project: Path) -> None:
    class FillsUp(Steps):
        def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
            if step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    checkpoints = project / "out" / "checkpoints"
    try:
        with pytest.raises(UserError, match=r"checkpoint-4: the disk is full.*last good one is .*checkpoint-2"):
            run(
                project,
                "train.save_strategy=steps",
                "train.save_steps=2",
                "train.eval_strategy=no",
                "train.save_total_limit=1",
                progress=FillsUp(),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest_whole(checkpoints).checkpoint == checkpoints / "checkpoint-2"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    resumed = run(
        project,
        "train.save_strategy=steps",
        "train.save_steps=2",
        "train.eval_strategy=no",
        "train.save_total_limit=1",
        resume=True,
    )
    assert resumed.steps > 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk_is_one_line(project: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=300k tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            run(
                project,
                "train.save_strategy=steps",
                "train.save_steps=1",
                "train.save_total_limit=50",
                output=disk / "out",
            )
        last = newest_whole(disk / "out" / "checkpoints").checkpoint
        assert last is None or (last / "adapter_model.safetensors").stat().st_size > 0
    finally:
        os.system(f"umount -l {disk}")


def test_without_validation_examples_the_setting_is_named(project: Path) -> None:
    (project / "one.jsonl").write_text('{"prompt": "a", "completion": " b"}\n')
    with pytest.raises(UserError, match=r"train\.eval_strategy"):
        run(project, "tasks=[one.jsonl]")
    assert run(project, "tasks=[one.jsonl]", "train.eval_strategy=no", output=project / "ok").steps == 2


def test_the_bar_shows_plain_lines_off_a_terminal() -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, width=100))
    bar.start("lora", 20)
    for step in range(1, 21):
        bar.step(step, 1.5 / step, 1234.5)
    bar.stop()
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "lora: step 20/20, loss 0.075, 1,234 tokens/s"


def test_the_bar_draws_on_a_terminal() -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, width=100, force_terminal=True))
    bar.start("rlora", 3)
    bar.step(2, 0.5, 999.0)
    bar.stop()
    assert "2/3" in text.getvalue()
    assert "loss 0.500" in text.getvalue()


def test_a_folder_with_other_files_is_left_alone(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds something else than a run"):
        train(RunConfig.load(project / "run.yaml"), project / "mine")
    assert [p.name for p in (project / "mine").iterdir()] == ["notes.txt"]


def test_a_loss_that_is_not_a_number_is_seen_where_nothing_is_logged_or_saved_after_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU no step waits to be looked at: the adapter would be saved as it is."""
    monkeypatch.setattr(MultiTaskTrainer, "training_step", SFTTrainer.training_step)
    never = ("train.logging_strategy=no", "train.save_strategy=no", "train.eval_strategy=no", "train.max_steps=4")
    with pytest.raises(UserError, match="the loss became NaN or infinite at step"):
        run(project, *never, "train.learning_rate=1e38")
    assert not (project / "out" / "adapter").exists()


def test_a_base_whose_quantised_layers_train_nothing_is_refused_before_its_data_are_read(project: Path) -> None:
    """As gpt-oss in MXFP4, or what AutoRound has made."""
    model, tokenizer = load_base(project / "base")
    how = SimpleNamespace(quant_method="mxfp4")
    object.__setattr__(model, "hf_quantizer", SimpleNamespace(is_trainable=False, quantization_config=how))
    with pytest.raises(UserError, match="its weights are quantised by mxfp4, through which no gradient goes"):
        run(project, base=(model, tokenizer))
    assert run(project, "method=base", base=(model, tokenizer)).steps == 0


def test_a_setting_that_trl_refuses_for_a_base_is_one_line(project: Path) -> None:
    with pytest.raises(UserError, match=r"^train: `router_aux_loss_coef` is set .* is not a Mixture-of-Experts"):
        run(project, "train.router_aux_loss_coef=0.1")
