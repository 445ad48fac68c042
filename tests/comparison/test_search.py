"""The search for learning rates: what is tried, what judges, what is chosen, and what is left of it."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from comparison.recorded import recorded_search
from rich.console import Console
from tiny_project import byte_llama

from loraweave.comparison import compare
from loraweave.comparison.jobs import Job
from loraweave.comparison.runner import Runner
from loraweave.comparison.search import MOST_BEYOND, beyond, due, parse_rates, rates_of, validation_losses
from loraweave.comparison.store import ComparisonFolder
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder

RATES = ["1e-4", "3e-2"]


@pytest.fixture(scope="module")
def searched(config, tmp_path_factory) -> tuple[dict, Path]:
    """LoRA with two seeds, at the better one of two rates."""
    folder = tmp_path_factory.mktemp("searched") / "out"
    return compare(config, ["lora"], [0, 1], learning_rates=RATES, output=folder).results, folder


def files(folder: Path) -> dict[str, int]:
    """When each run was finished, by its folder's name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")}


def test_numbers_are_rates_and_factors_are_of_the_own_rate():
    assert rates_of(parse_rates(["2x", "1e-3", "0.5x", "0.001"]), 4e-3) == [1e-3, 2e-3, 8e-3]


@pytest.mark.parametrize("given", ["", "x", "0", "-1e-3", "nan", "inf", "1e-3y", "0x", "two"])
def test_anything_else_is_refused(given):
    with pytest.raises(UserError, match="write a number such as 1e-3"):
        parse_rates([given])


def test_every_rate_is_trained_and_the_lowest_validation_loss_wins(searched):
    results, folder = searched
    (search,) = results["searches"]
    assert (search["method"], search["seed"]) == ("lora", 0)
    losses = {}
    for trial in search["trials"]:
        logged = [json.loads(line) for line in (folder / trial["run"] / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in logged if "eval_loss_macro" in line][-1]
        assert last["step"] == 6
        assert trial["validation_loss"] == pytest.approx(last["eval_loss_macro"])
        assert set(trial["by_task"]) == {"parity", "double", "notes"}
        losses[trial["learning_rate"]] = trial["validation_loss"]
    assert list(losses) == [1e-4, 3e-2]
    assert search["chosen"] == min(losses, key=losses.__getitem__)
    assert search["edge"] == ("highest" if search["chosen"] == 3e-2 else "lowest")


def test_all_seeds_have_the_chosen_rate_and_only_they_are_scored(searched):
    results, folder = searched
    chosen = results["searches"][0]["chosen"]
    trained = [run for run in results["runs"] if run["method"] == "lora"]
    assert [(run["seed"], run["learning_rate"]) for run in trained] == [(0, chosen), (1, chosen)]
    assert trained[0]["validation_loss"] == min(trial["validation_loss"] for trial in results["searches"][0]["trials"])
    name = "0.03" if chosen == 3e-2 else "0.0001"
    assert set(files(folder)) == {"lora-seed0-lr0.0001", "lora-seed0-lr0.03", f"lora-seed1-lr{name}"}
    evaluated = {path.parent.name for path in folder.glob("runs/*/results.json")}
    assert evaluated == {f"lora-seed0-lr{name}", f"lora-seed1-lr{name}"}


def test_resumed_with_another_rate_only_that_one_is_trained(searched):
    _, folder = searched
    before = files(folder)
    config = _config_of(folder)
    results = compare(config, ["lora"], [0, 1], learning_rates=["1e-9"], output=folder, resume=True).results
    (search,) = results["searches"]
    assert [trial["learning_rate"] for trial in search["trials"]] == [1e-9, 1e-4, 3e-2]
    assert files(folder).items() >= before.items()
    assert set(files(folder)) - set(before) == {"lora-seed0-lr1e-09"}
    assert results["settings"]["learning_rates"] == [*RATES, "1e-9"]
    # Nothing is left to be done, with or without the option.
    made = files(folder)
    again = compare(config, ["lora"], [0, 1], output=folder, resume=True).results
    assert files(folder) == made
    assert again["runs"] == json.loads(json.dumps(results["runs"]))


def _config_of(folder: Path):
    from loraweave.runs.config import RunConfig

    config = RunConfig.load(next(folder.glob("runs/*")) / "run.yaml")
    return config.model_copy(update={"train": {k: v for k, v in config.train.items() if k != "learning_rate"}})


def test_a_rate_that_fails_is_out_and_the_method_goes_on(config, tmp_path):
    results = compare(config, ["lora"], [0], learning_rates=["1e-3", "1e30"], output=tmp_path / "out").results
    (search,) = results["searches"]
    assert [trial["status"] for trial in search["trials"]] == ["finished", "failed"]
    assert "NaN" in search["trials"][1]["error"]
    assert search["chosen"] == 1e-3
    assert search["edge"] == "lowest"
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]


def test_a_method_without_any_rate_has_failed(config, tmp_path):
    broken = {"name": "lora", "target_modules": ["no_such_layer"]}
    results = compare(config, [broken, "full"], [0], learning_rates=["1e-3"], output=tmp_path / "out").results
    lora, full = results["runs"][1:]
    assert (lora["status"], full["status"]) == ("failed", "finished")
    assert "no learning rate" in lora["error"]
    assert "no_such_layer" in lora["error"]


@pytest.mark.long
def test_a_run_from_before_the_search_is_one_of_its_trials(config, tmp_path):
    folder = tmp_path / "out"
    first = compare(config, ["lora"], [0], output=folder).results["runs"][1]
    before = files(folder)
    results = compare(config, ["lora"], [0], learning_rates=["1x", "1e-9"], output=folder, resume=True).results
    assert files(folder).items() >= before.items()
    (search,) = results["searches"]
    assert search["own_rate"] == first["learning_rate"]
    assert {trial["run"] for trial in search["trials"]} == {"runs/lora-seed0", "runs/lora-seed0-lr1e-09"}


@pytest.mark.parametrize("strategy", ["no", False])
def test_without_validation_there_is_nothing_to_choose_by(config, tmp_path, strategy):
    blind = config.model_copy(update={"train": {**config.train, "eval_strategy": strategy}})
    with pytest.raises(UserError, match=r"train.eval_strategy is no: set it to epoch or steps"):
        compare(blind, ["lora"], [0], learning_rates=["1x"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_lowest_of_equal_rates_is_chosen_and_edges_are_known():
    assert recorded_search("lora", {1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.4})["chosen"] == 2e-3
    edges = {
        "lowest": {1e-3: 0.1, 2e-3: 0.4, 4e-3: 0.5},
        "highest": {1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.3},
        None: {1e-3: 0.5, 2e-3: 0.4, 4e-3: None},  # what fails beyond it bounds the range
    }
    for edge, losses in edges.items():
        assert recorded_search("lora", losses)["edge"] == edge
    assert recorded_search("lora", {1e-3: 0.5})["edge"] is None
    assert recorded_search("lora", {1e-3: None})["chosen"] is None


def test_the_loss_is_that_of_the_weights_that_were_saved(config, tmp_path):
    folder = RunFolder(tmp_path)
    so_far = {"seconds": 1.0, "tokens": 10}
    losses = ((2, 1.0), (4, 3.0))
    lines = [{"step": step, **so_far, "eval_loss_macro": loss, "eval_loss/a": loss} for step, loss in losses]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validation_losses(folder, config, 4, 2) == {"a": 3.0}
    best = config.model_copy(update={"train": {**config.train, "load_best_model_at_end": True}})
    assert validation_losses(folder, best, 4, 2) == {"a": 1.0}


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ({1e-3: 0.1, 2e-3: 0.4, 8e-3: 0.5}, 5e-4),  # half of the lowest, which is half of the next
        ({1e-3: 0.5, 2e-3: 0.4, 8e-3: 0.1}, 3.2e-2),
        ({1e-3: 0.5, 2e-3: 0.4, 8e-3: 0.5}, None),
        ({1e-3: 0.5, 2e-3: 0.4, 8e-3: None}, None),  # failing is worse
        ({1e-3: 0.5}, None),
        ({1e-3: None, 2e-3: None}, None),
    ],
)
def test_the_next_rate_lies_beyond_the_end_that_is_best(losses, rate):
    assert beyond(recorded_search("lora", losses), sorted(losses)) == rate


def test_a_search_does_not_widen_for_ever():
    losses = {2.0**-n: 1 - n / 10 for n in range(2)}
    given = sorted(losses)
    while (rate := beyond(recorded_search("lora", losses), given)) is not None:
        losses[rate] = min(losses.values()) / 2
    assert len(losses) == 2 + MOST_BEYOND


def test_a_rate_that_was_come_to_by_widening_and_is_asked_for_later_is_not_tried_again():
    own = 2e-4 * 2048 / 576
    first = rates_of(parse_rates(["1x", "2x"]), own)
    wider = beyond(recorded_search("lora", dict(zip(first, [0.5, 0.4], strict=True))), first)
    given = rates_of(parse_rates(["1x", "2x", "4x", "8x"]), own)
    assert wider != given[2]  # by its rounding alone: both have one name, and so one folder
    search = recorded_search("lora", dict(zip([*first, wider], [0.5, 0.4, 0.3], strict=True)))
    assert due(search, given, widen=True) == [(given[3], None)]


@pytest.mark.long
def test_widened_until_the_best_rate_has_worse_ones_on_either_side(config, tmp_path):
    rates, folder = ["1e-5", "1e-4"], tmp_path / "out"
    results = compare(config, ["lora"], [0], learning_rates=rates, widen=True, output=folder).results
    (search,) = results["searches"]
    tried = [trial["learning_rate"] for trial in search["trials"]]
    assert search["chosen"] > 1e-4  # six steps at 1e-4 teach next to nothing
    assert search["edge"] is None or len(tried) == 2 + MOST_BEYOND
    assert all(high / low == pytest.approx(10) for low, high in pairwise(tried))
    assert results["runs"][1]["learning_rate"] == search["chosen"]
    made = files(folder)
    again = compare(config, ["lora"], [0], learning_rates=rates, output=folder, resume=True).results
    assert again["asked"]["widen"]  # as rates do, it stays in force
    assert again["searches"] == json.loads(json.dumps(results["searches"]))
    assert files(folder) == made


@pytest.mark.long
def test_resumed_a_search_that_ended_at_an_edge_is_widened(config, tmp_path):
    folder = tmp_path / "out"
    compare(config, ["lora"], [0], learning_rates=["1e-5", "1e-4"], output=folder)
    results = compare(config, ["lora"], [0], widen=True, output=folder, resume=True).results
    (search,) = results["searches"]
    assert len(search["trials"]) > 2
    assert [run["learning_rate"] for run in results["runs"]] == [None, search["chosen"]]


def test_one_rate_alone_cannot_be_widened(config, tmp_path):
    with pytest.raises(UserError, match="from two learning rates on"):
        compare(config, ["lora"], [0], learning_rates=["1x"], widen=True, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rates_are_chosen_on_shorter_trainings_and_the_runs_are_whole(config, tmp_path):
    warm = config.model_copy(update={"train": {**config.train, "warmup_steps": 3, "load_best_model_at_end": True}})
    rates, folder = ["1e-4", "1e-2", "3e-2"], tmp_path / "out"
    results = compare(warm, ["lora"], [0], learning_rates=rates, search_steps="67%", output=folder).results
    (search,) = results["searches"]
    assert search["rounds"] == [2, 4]  # of six
    steps = [(trial["learning_rate"], trial["steps"]) for trial in search["trials"]]
    assert steps[:3] == [(1e-4, 2), (1e-2, 2), (3e-2, 2)]
    assert [count for _, count in steps[3:]][:3] == [4, 4, None]  # whole: the run itself, and perhaps lower ones
    for trial in search["trials"][:5]:
        settings = RunConfig.load(folder / trial["run"] / "run.yaml").train
        assert (settings["max_steps"], settings["warmup_steps"]) == (trial["steps"], 0.5)
        logged = [json.loads(line) for line in (folder / trial["run"] / "metrics.jsonl").read_text().splitlines()]
        looked = [line for line in logged if "eval_loss_macro" in line]
        assert [line["step"] for line in looked] == [trial["steps"]]  # once, at the end
        assert trial["validation_loss"] == pytest.approx(looked[0]["eval_loss_macro"])
    (run,) = results["runs"][1:]
    assert run["learning_rate"] == search["chosen"]
    summary = json.loads((folder / run["adapter"]).with_name("summary.json").read_text())
    assert summary["steps"] == 6
    before = files(folder)
    again = compare(warm, ["lora"], [0], output=folder, resume=True).results
    assert files(folder) == before
    assert again["settings"]["search_steps"] == "67%"
    with pytest.raises(
        UserError, match=r"the searches of this comparison were begun with 67%; leave --search-steps out"
    ):
        compare(warm, ["lora"], [0], search_steps=3, output=folder, resume=True)


def test_a_short_training_is_looked_at_however_late_a_whole_one_is(config, tmp_path):
    late = config.model_copy(update={"train": {**config.train, "eval_delay": 50}})
    runner = Runner(late, 0, ComparisonFolder(tmp_path), (byte_llama(), None), None, Console(), steps=100)
    short, whole = (Job("trial", "lora", "lora", 0, 1e-3, steps) for steps in (25, None))
    assert runner._config_of(short).train["eval_delay"] == 0
    assert runner._config_of(whole).train["eval_delay"] == 50


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("half", "write a number of steps such as 100"),
        ("6", "below the 6 of a run"),
        ("0%", "at least 1, and below the steps of a run$"),
        ("100%", "at least 1, and below the steps of a run$"),
    ],
)
def test_search_steps_that_are_none_are_refused(config, tmp_path, steps, words):
    with pytest.raises(UserError, match=words):
        compare(config, ["lora"], [0], learning_rates=["1x", "2x"], search_steps=steps, output=tmp_path / "out")
    with pytest.raises(UserError, match="search steps are of a search for learning rates"):
        compare(config, ["lora"], [0], search_steps=3, output=tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()
