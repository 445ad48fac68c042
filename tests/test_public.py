"""The commands as functions, used as a person would in a script of theirs: train, load, evaluate, compare, analyse."""

import dataclasses
import inspect
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny_project import write_project, write_run_file

import loraweave
from loraweave import RunConfig, UserError, analyze, compare, evaluate, load_run, train

COMMANDS = {
    train: loraweave.RunResult,
    load_run: loraweave.Run,
    evaluate: loraweave.Evaluation,
    compare: loraweave.Comparison,
    analyze: loraweave.Analysis,
}


def silent() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("project"))
    write_run_file(folder)
    return folder


@pytest.fixture(scope="module")
def result(project: Path) -> loraweave.RunResult:
    """A trained R-LoRA, its run file written in Python."""
    config = RunConfig(
        model="base",
        method={"name": "rlora", "r": 2},
        tasks=["parity.yaml", "double.yaml", {"task": "notes.jsonl", "test": "notes_test.jsonl"}],
        train={"max_steps": 4, "max_length": 64, "report_to": "none"},
        base_dir=project,
    )
    return train(config, project / "rlora", console=silent())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_has_one_value_a_dataclass_whose_every_field_is_described(command):
    value = COMMANDS[command]
    assert inspect.signature(command).return_annotation in (value, value.__name__)
    assert dataclasses.is_dataclass(value)
    described = value.__doc__.partition("Attributes:")[2]
    for field in dataclasses.fields(value):
        assert field.name in described, f"{value.__name__}.{field.name} is nowhere described"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_describes_every_argument_and_what_it_raises(command):
    arguments, _, rest = inspect.getdoc(command).partition("Args:")[2].partition("Raises:")
    assert "UserError" in rest
    for name in inspect.signature(command).parameters:
        assert f"    {name}: " in arguments, f"{command.__name__}({name}=) is nowhere described"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"methd": "lora"}, "RunConfig: unknown key 'methd', did you mean 'method'"),
        ({"method": "rlorra"}, "RunConfig: unknown method 'rlorra', did you mean 'rlora'"),
        ({"method": {"name": "lora", "rnk": 4}}, "RunConfig: method lora: unknown field 'rnk'"),
        ({"tasks": []}, "RunConfig: tasks: .*at least 1 item"),
        ({"seed": -1}, "RunConfig: seed: "),
        ({"train": {"max_stepz": 4}}, "RunConfig: .*max_stepz"),
        ({"mixture": {"strategy": "capped"}}, "RunConfig: mixture: .*needs 'cap'"),
    ],
)
def test_a_run_file_written_in_python_says_in_one_line_what_is_wrong(wrong, words):
    with pytest.raises(UserError, match=words) as raised:
        RunConfig(**{"model": "nano", "tasks": ["boolq"], **wrong})
    assert "\n" not in str(raised.value)


def test_a_run_file_written_in_python_needs_a_model():
    with pytest.raises(UserError, match="RunConfig: the key 'model' is missing"):
        RunConfig(tasks=["boolq"])


def test_paths_of_a_run_file_written_in_python_start_where_it_says(project, tmp_path, monkeypatch):
    config = RunConfig(model="base", tasks=["parity.yaml"], output="runs/a", base_dir=project)
    assert (config.model, config.output) == (str((project / "base").resolve()), str(project / "runs/a"))
    monkeypatch.chdir(project)
    assert RunConfig(model="base", tasks=["parity.yaml"]).model == str((project / "base").resolve())
    assert RunConfig(model="Qwen/Qwen2.5-0.5B", tasks=["boolq"]).model == "Qwen/Qwen2.5-0.5B"
    config.save(tmp_path / "run.yaml")
    assert RunConfig.load(tmp_path / "run.yaml") == config


def test_train_takes_a_path_as_well_as_a_run_file(project, tmp_path):
    by_path = train(project / "run.yaml", tmp_path / "path", console=silent())
    read = train(RunConfig.load(project / "run.yaml"), tmp_path / "read", console=silent())
    assert by_path.steps == read.steps == 6
    files = [run.adapter / "adapter_model.safetensors" for run in (by_path, read)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_trained_run_is_loaded_and_evaluated(result):
    run = load_run(result.folder)
    assert [task.name for task in run.tasks] == ["parity", "double", "notes"]
    found = evaluate(run, limit=4)
    assert list(found.scores) == ["parity", "double", "notes"]
    assert found.folder == result.folder
    assert found.mean == pytest.approx(sum(found.scores[name]["score"] for name in ("parity", "double")) / 2)
    assert found.left_out == ["notes"]

    again = evaluate(result.folder, tasks=["notes"], limit=4)  # by its folder: the same number
    assert again.scores["notes"]["score"] == pytest.approx(found.scores["notes"]["score"])
    kept = json.loads(found.results.read_text())["evaluations"]
    assert [list(evaluation["scores"]) for evaluation in kept] == [["parity", "double", "notes"], ["notes"]]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tasks": ["pairity"]}, "did you mean 'parity'"),
        ({"tasks": []}, "at least one of parity, double, notes"),
        ({"tasks": "parity"}, "a list of names"),
        ({"tasks": [["parity"]]}, r"the run has no task \['parity'\]"),
        ({"limit": 0}, "at least 1 example"),
    ],
)
def test_evaluate_says_what_is_wrong(result, asked, words):
    with pytest.raises(UserError, match=words):
        evaluate(result.folder, **asked)


def test_a_comparison_hands_on_scores_adapters_and_failures(project, tmp_path):
    broken = {"name": "multilora", "target_modules": ["nowhere"]}
    found = compare(project / "run.yaml", ["lora", broken], output=tmp_path / "out", console=silent())
    assert set(found.scores) == {"base", "lora", "multilora"}
    run = next(run for run in found.results["runs"] if run["method"] == "lora")
    assert found.scores["lora"]["parity"] == pytest.approx(run["scores"]["parity"]["score"])
    assert list(found.adapters) == [("lora", 0)]
    assert (found.adapters["lora", 0] / "adapter_config.json").is_file()
    assert "nowhere" in found.failed["multilora", 0]
    assert found.page.is_file()
    assert found.recommended in (None, "base", "lora")
    assert json.loads((found.folder / "results.json").read_text())["runs"] == json.loads(
        json.dumps(found.results["runs"])
    )
    with pytest.raises(UserError, match="holds a comparison; name one of its runs"):
        evaluate(found.folder)


def test_a_search_takes_rates_as_numbers(project, tmp_path):
    config = RunConfig.load(project / "run.yaml", ["train.max_steps=2", "eval.limit=2"])
    found = compare(config, ["lora"], learning_rates=[1e-3, "2x"], output=tmp_path / "out", console=silent())
    (search,) = found.results["searches"]
    assert [trial["learning_rate"] for trial in search["trials"]] == [1e-3, 2 * search["own_rate"]]


def test_an_analysis_has_a_row_for_each_run(result, project, tmp_path, monkeypatch):
    other = train(RunConfig.load(project / "run.yaml", ["train.max_steps=2"]), tmp_path / "lora", console=silent())
    monkeypatch.chdir(tmp_path)
    found = analyze([result.folder, other.folder])
    assert found.folder == Path("runs/analysis")  # the next free one, as on the command line
    assert found.report.is_file()
    rlora, lora = found.overview
    assert (rlora.method, lora.method) == ("rlora", "lora")
    assert lora.rank == other.rank
    assert lora.head_similarity is None
    assert -1 <= rlora.head_similarity <= 1
    assert 0 < rlora.top_share <= 1 <= rlora.effective_rank <= rlora.rank
    assert found.notes == json.loads((found.folder / "analysis.json").read_text())["notes"]
    assert analyze([other.folder]).folder == Path("runs/analysis-2")
    with pytest.raises(UserError, match="something already"):
        analyze([other.folder], "runs/analysis")
    with pytest.raises(UserError, match="a list of folders"):
        analyze(str(other.folder))
