"""Comparisons of real runs: what is recorded, resumed, refused, and survived."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from comparison import recorded
from peft import PeftModel
from rich.console import Console
from tiny_project import write_base, write_project, write_run_file

from loraweave.analysis.subjects import open_runs
from loraweave.bases import fingerprint, load_base
from loraweave.comparison import compare, loop
from loraweave.comparison.opening import default_methods
from loraweave.comparison.runner import give_memory_back
from loraweave.comparison.table import comparison_table
from loraweave.errors import UserError
from loraweave.evaluation import evaluate
from loraweave.files import read_json
from loraweave.runs.config import RunConfig
from loraweave.runs.loading import load_run
from loraweave.tasks import load_tasks


def test_records_every_run(compared):
    results, folder = compared
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [("base", None), ("lora", 0), ("rlora", 0)]
    assert [row["method"] for row in results["summary"]] == ["base", "lora", "rlora"]
    assert list(results["tasks"]) == ["parity", "double", "notes"]
    base, *trained = results["runs"]
    assert base["trainable_parameters"] == 0
    for run in trained:
        assert run["status"] == "finished"
        assert run["trainable_parameters"] > 0
        assert run["seconds"] > 0
        assert run["peak_memory"] > 10**8
        assert run["tokens_per_second"] > 0
        assert (folder / run["adapter"] / "adapter_model.safetensors").is_file()
        assert len(run["curves"]["training"]["notes"]) >= 3
        assert run["curves"]["validation"]["parity"][-1][0] == 6
        assert run["scores"]["notes"]["score"] < base["scores"]["notes"]["score"]
    assert results["command"] == "typed"
    assert results["environment"]["packages"]["peft"]
    assert results["settings"]["config"]["train"]["lr_scheduler_type"]  # defaults too
    assert results["task_configs"]["parity"]["config"]["doc_to_text"] == "{{number}} is"


def test_every_method_draws_the_same_data(compared):
    results, folder = compared
    lora, rlora = results["runs"][1:]
    assert lora["mixture"] == rlora["mixture"]
    assert (folder / "runs" / "lora-seed0" / "mixture.json").read_text() == (
        folder / "runs" / "rlora-seed0" / "mixture.json"
    ).read_text()


def test_match_params_is_within_three_percent(compared):
    lora, rlora = (run["trainable_parameters"] for run in compared[0]["runs"][1:])
    assert rlora == pytest.approx(lora, rel=0.03)


def test_scores_are_those_of_the_saved_adapter(compared, config):
    results, folder = compared
    run = results["runs"][2]
    model, tokenizer = load_base(config.model)
    tasks = load_tasks(config.tasks, base_dir=config.base_dir)
    adapted = PeftModel.from_pretrained(model, folder / run["adapter"])
    scores = evaluate(adapted, tokenizer, tasks)
    assert {name: score["score"] for name, score in scores.items()} == pytest.approx(
        {name: score["score"] for name, score in run["scores"].items()}
    )
    recorded = json.loads((folder / "runs" / "rlora-seed0" / "results.json").read_text())["evaluations"]
    assert [evaluation["scores"]["notes"]["score"] for evaluation in recorded] == [run["scores"]["notes"]["score"]]


def test_refuses_a_folder_that_is_taken(compared, config, tmp_path):
    _, folder = compared
    before = (folder / "results.json").read_text()
    with pytest.raises(UserError, match="already holds a comparison"):
        compare(config, ["lora", "rlora"], [0], match_params=True, output=folder)
    other = config.model_copy(update={"train": {**config.train, "max_steps": 3}})
    with pytest.raises(UserError, match=r"config.train.max_steps was 6 and is now 3"):
        compare(other, ["lora", "rlora"], [0], match_params=True, output=folder, resume=True)
    assert (folder / "results.json").read_text() == before
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty and holds no comparison"):
        compare(config, ["lora"], [0], output=tmp_path)


def test_labels_tell_two_of_one_method_apart(config, tmp_path):
    wide = {"name": "lora", "label": "lora-r4", "r": 4}
    config = config.model_copy(update={"train": {**config.train, "learning_rate": {"lora": 3e-3}}})
    results = compare(config, [{"name": "lora", "r": 2}, wide], [0], output=tmp_path / "out").results
    assert [run["method"] for run in results["runs"]] == ["base", "lora", "lora-r4"]
    narrow, broad = results["runs"][1:]
    assert broad["trainable_parameters"] == 2 * narrow["trainable_parameters"]
    assert narrow["learning_rate"] == broad["learning_rate"] == 3e-3
    assert broad["adapter"] == "runs/lora-r4-seed0/adapter"
    assert [each["method"] for each in results["differences"]] == ["base", "lora-r4"]
    with pytest.raises(
        UserError, match=r"lora-r4 was trained otherwise in this comparison: method.r was 4 and is now 8"
    ):
        compare(config, [{**wide, "r": 8}], [0], output=tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        (["lora", "rlroa"], [0], "unknown method 'rlroa', did you mean 'rlora'"),
        (["lora", "lora"], [0], "given twice"),
        (["base"], [0], "at least one method"),
        (["lora"], [], "at least one seed"),
        (["lora"], [1, 1], "different whole numbers"),
        ([{"name": "lora", "r": 0}], [0], "rank"),
        ([{"name": "own", "num_heads": 2}], [0], "one head for each of its 3 tasks"),
    ],
)
def test_says_what_is_wrong_before_anything_is_written(config, tmp_path, methods, seeds, message):
    with pytest.raises(UserError, match=message):
        compare(config, methods, seeds, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_launcher_s_processes_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"one process, and a launcher has started 2: .*loraweave train"):
        compare(config, ["lora"], [0], output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_base_that_cannot_be_loaded_leaves_no_folder(config, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        compare(config.model_copy(update={"model": "./nowhere"}), ["lora"], [0], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_run_is_recorded_and_the_rest_goes_on_then_resume_runs_what_is_left(config, tmp_path):
    folder = tmp_path / "out"
    broken = {"name": "lora", "target_modules": ["no_such_layer"]}
    results = compare(config, [broken, "full"], [0], output=folder).results
    lora, full = results["runs"][1:]
    assert (lora["status"], full["status"]) == ("failed", "finished")
    assert "no_such_layer" in lora["error"]
    assert (folder / full["adapter"] / "model.safetensors").is_file()
    finished = (folder / "runs" / "full-seed0" / "summary.json").stat().st_mtime_ns

    again = compare(config, [broken, "full", "multilora"], [0], output=folder, resume=True).results
    assert [(run["method"], run["status"]) for run in again["runs"]] == [
        ("base", "finished"),
        ("lora", "failed"),
        ("full", "finished"),
        ("multilora", "finished"),
    ]
    assert (folder / "runs" / "full-seed0" / "summary.json").stat().st_mtime_ns == finished
    # Both start from the base's own outputs, so the first step's losses are equal if its batch is.
    full, multilora = ([curve[0] for curve in again["runs"][i]["curves"]["training"].values()] for i in (2, 3))
    assert [step for step, _ in full] == [1, 1, 1]
    assert [loss for _, loss in full] == pytest.approx([loss for _, loss in multilora], rel=1e-3)
    assert "failed" in (folder / "index.html").read_text()


def test_the_base_is_left_untouched_by_every_kind_of_run(compared, config):
    model, _ = load_base(config.model)
    _, folder = compared
    recorded = json.loads((folder / "runs" / "rlora-seed0" / "base.json").read_text())
    assert recorded["fingerprint"] == fingerprint(model)


def test_a_run_on_another_base_is_refused(compared, tmp_path):
    _, folder = compared
    write_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="base"):
        load_run(folder / "runs" / "lora-seed0", base=load_base(str(tmp_path / "other")))


def test_how_to_evaluate_may_change_until_something_was_evaluated(config, tmp_path):
    folder = tmp_path / "out"
    compare(config, ["lora"], [0], output=folder)
    slower = config.model_copy(update={"eval": config.eval.model_copy(update={"batch_size": 2})})
    compare(slower, ["lora"], [0], output=folder, resume=True)
    fewer = config.model_copy(update={"eval": config.eval.model_copy(update={"limit": 4})})
    with pytest.raises(UserError, match=r"config.eval.limit was null and is now 4"):
        compare(fewer, ["lora"], [0], output=folder, resume=True)
    results = json.loads((folder / "results.json").read_text())
    for run in results["runs"]:  # a mean of nothing, which JSON has no number for
        run["scores"]["parity"]["metrics"]["of_nothing,none"] = None
    (folder / "results.json").write_text(json.dumps(results))
    compare(slower, ["lora"], [0], output=folder, resume=True)
    results["runs"] = [run | {"scores": {}, "status": "failed"} for run in results["runs"][1:]]
    (folder / "results.json").write_text(json.dumps(results))
    again = compare(fewer, ["lora"], [0], output=folder, resume=True).results
    assert [run["scores"]["parity"]["n"] for run in again["runs"]] == [4, 4]
    assert again["settings"]["config"]["eval"]["limit"] == 4


@pytest.mark.long
def test_a_method_added_later_has_its_own_rate_and_the_same_budget(config, tmp_path):
    folder = tmp_path / "out"

    def with_rates(**rates: float):
        return config.model_copy(update={"train": {**config.train, "learning_rate": rates}})

    compare(with_rates(lora=1e-3), ["lora"], [0], match_params=True, output=folder)
    with pytest.raises(UserError, match=r"learning_rate.lora was 0.001 and is now 0.002"):
        compare(with_rates(lora=2e-3), ["rlora"], [0], match_params=True, output=folder, resume=True)
    later = with_rates(lora=1e-3, rlora=3e-3)
    results = compare(
        later, ["rlora"], [0], match_params=True, output=folder, resume=True, command="more --resume"
    ).results
    lora, rlora = results["runs"][1:]
    assert (lora["learning_rate"], rlora["learning_rate"]) == (1e-3, 3e-3)
    assert rlora["trainable_parameters"] == pytest.approx(lora["trainable_parameters"], rel=0.03)
    assert results["command"] == "\nmore --resume"


def test_a_page_that_cannot_be_made_ends_no_runs(config, tmp_path, monkeypatch):
    def broken(*arguments: object) -> None:
        raise ValueError("no page today")

    monkeypatch.setattr(loop, "write_page", broken)
    monkeypatch.setattr(loop, "PAGE_EVERY", 0.0)  # after every run
    with pytest.raises(ValueError, match="no page today"):
        compare(config, ["lora"], [0], output=tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["status"] for run in results["runs"]] == ["finished", "finished"]


def test_figures_are_drawn_once_and_where_the_comparison_is_stopped(config, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(loop, "write_page", lambda results, path: drawn.append(len(results["runs"])))
    compare(config, ["lora", "full"], [0], output=tmp_path / "out")
    assert drawn == [3]

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Runner, "_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(config, ["lora"], [0], output=tmp_path / "stopped")
    assert drawn == [3, 1]  # the base had been scored


def test_every_run_is_asked_the_same_with_solved_examples_too(config, tmp_path):
    shots = config.model_copy(update={"eval": config.eval.model_copy(update={"num_fewshot": 2, "limit": 5})})
    results = compare(shots, ["lora"], [3, 4], output=tmp_path / "out").results
    for task in results["tasks"]:
        assert len({run["scores"][task]["requests"] for run in results["runs"]}) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_of_earlier_runs_is_given_back():
    def resident() -> int:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024  # MB

    small = [torch.ones(15_000) for _ in range(3000)]  # 60 kB each: from the heap, which ends with the last one
    keep, before = small[-1], resident()
    del small
    give_memory_back()
    assert resident() < before - 120
    assert keep.sum() == 15_000


def test_records_of_another_machine_are_gone_on_with(compared, tmp_path):
    """results.json alone, beside a base and data that lie elsewhere: finished runs stand, new ones are made."""
    results, folder = compared
    project = tmp_path / "elsewhere"
    config = RunConfig.load(write_run_file(write_project(project)))
    there = tmp_path / "out"
    there.mkdir()
    shutil.copy(folder / "results.json", there)
    with pytest.raises(UserError, match="2 of its 2 finished runs are not here, lora-seed0 first"):
        open_runs([there])
    found = compare(config, ["lora", "rlora"], [0, 1], match_params=True, output=there, resume=True)
    assert json.loads(json.dumps(found.results["runs"][:3])) == json.loads(json.dumps(results["runs"]))
    assert [(run["method"], run["seed"]) for run in found.results["runs"][3:]] == [("lora", 1), ("rlora", 1)]
    assert {path.name for path in (there / "runs").iterdir()} == {"lora-seed1", "rlora-seed1"}
    assert set(found.adapters) == {("lora", 1), ("rlora", 1)}
    assert found.elsewhere == [("lora", 0), ("rlora", 0)]
    page = found.page.read_text()
    assert "rlora, seed 0" in page
    assert found.results["summary"][1]["finished"] == 2
    shutil.move(project / "base", tmp_path / "moved")
    with pytest.raises(UserError, match=r"out: its base is not here: .* \(say with --set model=NAME where it is\)"):
        compare(config, ["lora", "rlora"], [0, 1], match_params=True, output=there, resume=True)
    moved = config.model_copy(update={"model": str(tmp_path / "moved")})
    again = compare(moved, ["lora", "rlora"], [0, 1], match_params=True, output=there, resume=True)
    assert again.results["runs"] == json.loads(json.dumps(found.results["runs"]))
    write_base(project / "base", seed=1)
    with pytest.raises(UserError, match="is not the base that this was begun with"):
        compare(config, ["lora", "rlora"], [0, 2], match_params=True, output=there, resume=True)


def test_what_is_compared_where_nobody_says_it(config, compared, tmp_path):
    def methods(**values):
        return default_methods(config.model_copy(update=values))

    own = {"name": "own", "r": 2}
    assert methods() == ["lora", "own"]
    assert methods(method={"name": "lora", "r": 2}) == ["lora", "own"]
    assert methods(method="rlora") == ["lora", "rlora", "own"]
    assert methods(method=own) == ["lora", own]
    assert methods(method={"name": "lora", "label": "small", "r": 2})[1:] == [
        {"name": "lora", "label": "small", "r": 2},
        "own",
    ]
    assert methods(tasks=config.tasks[:1]) == ["lora"], "one task shares with nobody"
    folder = tmp_path / "again"
    shutil.copytree(compared[1], folder)
    again = compare(config, seeds=[0], match_params=True, output=folder, resume=True).results
    for part in ("runs", "settings"):
        assert again[part] == json.loads(json.dumps(compared[0][part])), "what goes on is what it was"


def test_what_goes_on_has_its_own_seeds_where_nobody_says_others(config, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(json.dumps(recorded.results(seeds=[3, 4])))

    def asked(given, folder, settings, asked, resume, command):
        raise UserError(f"asked for {asked['seeds']}")

    monkeypatch.setattr(loop, "_opened", asked)
    for seeds, resume, said in ((None, True, "3, 4"), ([5], True, "5"), (None, False, "0")):
        with pytest.raises(UserError, match=rf"asked for \[{said}\]"):
            compare(config, ["lora"], seeds, output=tmp_path, resume=resume)


def test_a_task_with_nothing_to_be_scored_on_is_left_out_of_the_scores_and_said(tmp_path):
    project = write_project(tmp_path / "project")
    (project / "few.jsonl").write_text('{"prompt": "Note:", "completion": " x"}\n')
    config = RunConfig.load(write_run_file(project))
    config = config.model_copy(update={"tasks": ["parity.yaml", "few.jsonl"]})
    printed = Console(file=StringIO(), width=200)
    found = compare(config, ["lora"], [0], output=tmp_path / "out", console=printed)
    assert [run["status"] for run in found.results["runs"]] == ["finished", "finished"]
    assert [list(run["scores"]) for run in found.results["runs"]] == [["parity"], ["parity"]]
    said = "few: not scored, too few rows to hold some out: name a file as 'test'"
    assert printed.file.getvalue().startswith(said)  # before anything is trained
    assert found.page.read_text().count(said.replace("'", "&#39;")) == 1
    table = Console(file=StringIO(), width=200)
    table.print(comparison_table(found.results, 200))
    assert said in table.file.getvalue()
    assert len(found.results["runs"][1]["mixture"]) == 2  # it is learned all the same
    evaluated = read_json(tmp_path / "out" / "runs" / "lora-seed0" / "results.json")["evaluations"]
    assert [each["settings"]["tasks"] for each in evaluated] == [["parity"]]
    alone = config.model_copy(update={"tasks": ["few.jsonl"]})
    with pytest.raises(UserError, match=r"task 'few': .*few.jsonl has too few rows .*: name a file as 'test'"):
        compare(alone, ["lora"], [0], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()
