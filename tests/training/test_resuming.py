"""Going on with a run: from which checkpoint, on which base and data, and to the adapter of a run never stopped."""

import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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

from loraweave.errors import UserError
from loraweave.stopping import Request, Stopped, listening
from loraweave.training import resuming
from loraweave.training import trainer as trainer_module
from loraweave.training.resuming import StopWhenAsked
from loraweave.training.trainer import MultiTaskTrainer

EVERY_STEP = ("train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=no", "train.max_steps=5")

EVERY_EVALUATED = (
    "tasks=[{task: notes.jsonl, validation: other.jsonl}]",
    "train.load_best_model_at_end=true",
    "train.eval_strategy=steps",
    "train.eval_steps=1",
    "train.save_strategy=steps",
    "train.max_steps=5",
)


class At:
    """A progress display that does something after a step is shown."""

    def __init__(self, wanted: int, act: Callable[[], None]) -> None:
        self.wanted, self.act = wanted, act

    def start(self, name: str, total: int) -> None: ...

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        if step == self.wanted:
            self.act()

    def stop(self) -> None: ...


def interrupt() -> None:
    raise KeyboardInterrupt


def ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def write_unlikelier(project: Path) -> None:
    """Examples that training makes less likely with every step."""
    rows = [{"prompt": f"Note {n}:", "completion": " QQQQ"} for n in range(8)]
    (project / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def same_adapter(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def logged(folder: Path) -> list[dict[str, Any]]:
    """The metrics, but for what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_the_newest_whole_checkpoint_is_used_and_what_is_wrong_with_newer_ones_is_said(project: Path) -> None:
    whole = run(project, *EVERY_STEP, output=project / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(project, *EVERY_STEP, progress=At(4, interrupt))
    (project / "out" / "checkpoints" / "checkpoint-3" / "optimizer.pt").unlink()
    said = io.StringIO()
    resumed = run(project, *EVERY_STEP, resume=True, console=Console(file=said, width=20))
    assert "resuming from step 2; checkpoint-3 is torn: optimizer.pt is missing\n" in said.getvalue()
    assert same_adapter(whole.folder, resumed.folder)
    assert logged(whole.folder) == logged(resumed.folder)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_a_run_whose_only_checkpoint_lacks_a_file_is_refused(project: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, *EVERY_STEP, progress=At(2, interrupt))
    (project / "out" / "checkpoints" / "checkpoint-1" / name).unlink()
    with pytest.raises(UserError, match=f"no checkpoint is whole .*{name} is missing"):
        run(project, *EVERY_STEP, resume=True)


@pytest.mark.parametrize("field", ["save_only_model", "ignore_data_skip"])
def test_what_makes_a_run_impossible_to_resume_is_refused(project: Path, field: str) -> None:
    with pytest.raises(UserError, match=rf"train\.{field} cannot be set"):
        run(project, f"train.{field}=true")


@pytest.mark.parametrize("moved", few([False, True], [True]))
def test_the_best_checkpoint_is_known_again(project: Path, moved: bool) -> None:
    """Also where the folder has moved, for a checkpoint names the best one by its path."""
    write_unlikelier(project)
    settings = (*EVERY_EVALUATED, "train.save_steps=1")
    whole = run(project, *settings, output=project / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings, progress=At(4, interrupt))
    assert whole.best_step is not None
    assert whole.best_step <= 3
    out = project / "out"
    if moved:
        out = out.rename(project / "elsewhere")
    resumed = run(project, *settings, output=out, resume=True)
    assert resumed.best_step == whole.best_step
    assert same_adapter(whole.folder, resumed.folder)


def test_a_run_stopped_in_its_last_step_still_ends_with_its_best_adapter(project: Path) -> None:
    """Its last checkpoint is older than the evaluation by which that is the best."""
    settings = ("train.load_best_model_at_end=true", "method.lora_dropout=0.1")
    whole = run(project, *settings, output=project / "whole")
    assert whole.best_step == whole.steps
    with pytest.raises(Stopped, match=f"stopped after step {whole.steps} of {whole.steps}"):
        run(project, *settings, progress=At(whole.steps - 1, ask_to_end))
    resumed = run(project, *settings, resume=True)
    assert resumed.best_step == whole.best_step
    assert same_adapter(whole.folder, resumed.folder)


def test_a_best_step_between_two_checkpoints_is_none_to_go_back_to_and_no_fault(project: Path) -> None:
    write_unlikelier(project)
    settings = (*EVERY_EVALUATED, "train.save_steps=2")
    whole = run(project, *settings, output=project / "whole")
    assert whole.best_step == 1
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings, progress=At(4, interrupt))
    resumed = run(project, *settings, resume=True)
    assert (resumed.best_step, resumed.best_loss) == (whole.best_step, whole.best_loss)
    assert same_adapter(whole.folder, resumed.folder)


def test_changed_data_is_refused_and_the_task_named(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, *EVERY_STEP, progress=At(3, interrupt))
    before = {path: path.read_bytes() for path in (project / "out").glob("*.json*")}
    lines = (project / "notes.jsonl").read_text().splitlines(keepends=True)
    (project / "notes.jsonl").write_text("".join([lines[0].replace("remember", "forget"), *lines[1:]]))
    with pytest.raises(UserError, match="cannot resume, the examples of notes have changed"):
        run(project, *EVERY_STEP, resume=True)
    assert before == {path: path.read_bytes() for path in (project / "out").glob("*.json*")}
    (project / "notes.jsonl").write_text("".join(lines))
    assert run(project, *EVERY_STEP, resume=True).steps == 5


def test_another_base_is_refused(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, *EVERY_STEP, progress=At(3, interrupt))
    shutil.rmtree(project / "base")
    write_base(project / "base", seed=1)
    with pytest.raises(UserError, match=r"cannot resume, .*base is not the base that this was begun with"):
        run(project, *EVERY_STEP, resume=True)


@pytest.mark.parametrize("names", few(["b, a, c", "a, b", "a, b, c, d"], ["a, b"]))
def test_other_members_of_a_group_of_tasks_are_refused(project: Path, names: str) -> None:
    """The run file stays as it is, and task ids would mean other tasks."""
    for name in "abcd":
        (project / f"{name}.yaml").write_text(
            (project / "double.yaml").read_text().replace("task: double", f"task: {name}")
        )
    (project / "group.yaml").write_text("group: all\ntask: [a, b, c]\n")
    settings = (*EVERY_STEP, "tasks=[group.yaml]")
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings, progress=At(3, interrupt))
    before = (project / "out" / "data.json").read_bytes()
    (project / "group.yaml").write_text(f"group: all\ntask: [{names}]\n")
    with pytest.raises(
        UserError, match=f"cannot resume, this was begun with the tasks a, b, c, and now they are {names}"
    ):
        run(project, *settings, resume=True)
    assert (project / "out" / "data.json").read_bytes() == before
    (project / "group.yaml").write_text("group: all\ntask: [a, b, c]\n")
    assert run(project, *settings, resume=True).steps == 5


@pytest.mark.parametrize("change", ["template", "tokenizer"])
def test_another_tokenizer_or_chat_template_is_refused(project: Path, change: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, *EVERY_STEP, progress=At(3, interrupt))
    path = project / "base" / ("tokenizer.json" if change == "tokenizer" else "chat_template.jinja")
    written = path.read_text() if path.exists() else ""
    path.write_text(written.replace('"<s>"', '"<start>"') if written else "{{ messages[0].content }}")
    if change == "tokenizer":
        settings = project / "base" / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"<s>"', '"<start>"'))
    with pytest.raises(UserError, match=r"cannot resume, the tokenizer of .*base or its chat template has changed"):
        run(project, *EVERY_STEP, resume=True)
    record = project / "out" / "base.json"
    older = json.loads(record.read_text())
    del older["tokenizer"]
    record.write_text(json.dumps(older))
    assert run(project, *EVERY_STEP, resume=True).steps == 5


@pytest.mark.parametrize("at", few([1, 3], [3]))
def test_a_run_that_is_asked_to_end_saves_and_says_how_to_go_on(project: Path, at: int) -> None:
    settings = ("train.max_steps=4", "train.packing=false", "method.lora_dropout=0.1", "train.save_strategy=no")
    whole = run(project, *settings, output=project / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=rf"stopped after step {at + 1} of 4, which is saved; .* --resume goes on"):
        run(project, *settings, progress=At(at, ask_to_end))
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = run(project, *settings, resume=True)
    assert same_adapter(whole.folder, resumed.folder)


def test_a_request_that_came_too_late_for_the_inner_block_is_passed_on_to_the_outer() -> None:
    reached = []
    with pytest.raises(Stopped, match="outer"), listening("outer"):  # noqa: PT012
        with listening("inner") as request, request.holding():
            ask_to_end()
            reached.append("inner")
        reached.append("outer")
    assert reached == ["inner"]


def test_a_signal_that_comes_twice_does_not_disturb_what_is_tidied_up() -> None:
    """A launcher passes on what its processes got themselves."""
    tidied = False
    with pytest.raises(Stopped, match="line"), listening("line"):  # noqa: PT012
        try:
            ask_to_end()
        finally:
            ask_to_end()
            tidied = True
    assert tidied


class Pair:
    """Two processes at their steps, each in a thread of its own: the greatest of what both tell is what both get."""

    def __init__(self, folder: Path, seconds: tuple[float, float]) -> None:
        self.barrier = threading.Barrier(2)
        self.told: list[list[int]] = [[], []]
        self.asks = [0, 0]
        self.requests = [Request(), Request()]
        self.seconds = seconds
        self.callbacks = [StopWhenAsked(request, folder) for request in self.requests]
        for number, callback in enumerate(self.callbacks):
            accelerator: Any = SimpleNamespace(reduce=partial(self.reduce, number))
            callback.trainer = SimpleNamespace(accelerator=accelerator)  # type: ignore[assignment]

    def reduce(self, number: int, told: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "max"
        self.asks[number] += 1
        self.told[number] = told.tolist()
        self.barrier.wait(10)
        most = torch.tensor(self.told).amax(0)
        self.barrier.wait(10)
        return most

    def work(self, number: int, steps: int, asked_at: int | None) -> int | None:
        """Steps of one process, which is asked at one of them; returns after which it stops."""
        args = SimpleNamespace(world_size=2, device="cpu")
        state, control = SimpleNamespace(global_step=0, max_steps=steps), SimpleNamespace(should_save=False)
        self.callbacks[number].on_train_begin(args, state, control)
        for step in range(1, steps + 1):
            time.sleep(self.seconds[number])
            state.global_step = step
            self.requests[number].asked |= step == asked_at
            self.callbacks[number].on_step_end(args, state, control)
            if control.should_save:
                return step
        return None


def test_processes_agree_on_the_same_step_without_asking_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "EVERY", 0.1)
    pair = Pair(tmp_path, (0.001, 0.004))
    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(pair.work, (0, 1), (400, 400), (None, 100)))
    assert ends[0] == ends[1]
    assert ends[0] is not None
    assert 100 <= ends[0] <= 300
    assert pair.asks[0] == pair.asks[1] < 100


@pytest.mark.long
def test_the_evaluation_that_a_kill_kept_from_an_epochs_end_is_made_up_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=epoch")
    whole = run(project, *settings, output=project / "whole")
    evaluate = MultiTaskTrainer.evaluation_loop
    for epoch in (1, 2):
        output, left = project / f"out{epoch}", iter(range(epoch - 1))

        def killed(trainer: Any, *args: Any, left: Any = left, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return evaluate(trainer, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(MultiTaskTrainer, "evaluation_loop", killed)
            with pytest.raises(KeyboardInterrupt):
                run(project, *settings, output=output)
        resumed = run(project, *settings, output=output, resume=True)
        assert same_adapter(whole.folder, resumed.folder)
        assert (resumed.best_step, resumed.best_loss) == (whole.best_step, whole.best_loss)
        assert [(line["step"], "eval_loss" in line) for line in logged(resumed.folder)] == [
            (line["step"], "eval_loss" in line) for line in logged(whole.folder)
        ]


def test_a_kill_before_older_checkpoints_were_taken_away_leaves_none_too_many(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(project, *EVERY_STEP, output=project / "whole")
    rotate = trainer_module.rotate_checkpoints

    def killed(folder: str, *given: Any) -> None:
        if (Path(folder) / "checkpoint-5").exists():
            raise KeyboardInterrupt
        rotate(folder, *given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "rotate_checkpoints", killed)
        with pytest.raises(KeyboardInterrupt):
            run(project, *EVERY_STEP)
    assert len([*(project / "out" / "checkpoints").iterdir()]) == 3
    resumed = run(project, *EVERY_STEP, resume=True)
    names = [{path.name for path in (each.folder / "checkpoints").iterdir()} for each in (whole, resumed)]
    assert names[0] == names[1] == {"checkpoint-4", "checkpoint-5"}


def test_a_schedule_that_follows_evaluations_hears_of_one_that_a_stop_has_left_out(project: Path) -> None:
    """A stop in an epoch's last step saves it before it is evaluated."""
    plateau = (
        "train.num_train_epochs=3",
        "train.lr_scheduler_type=reduce_lr_on_plateau",
        "train.lr_scheduler_kwargs={patience: 0, threshold: 100, threshold_mode: abs}",  # all but the first is worse
    )
    whole = run(project, *plateau, output=project / "whole")
    with pytest.raises(Stopped):
        run(project, *plateau, progress=At(whole.steps // 3 - 1, ask_to_end))
    run(project, *plateau, resume=True)
    assert len({line["learning_rate"] for line in logged(project / "out") if "loss" in line}) == 2
    assert same_adapter(project / "out", project / "whole")
