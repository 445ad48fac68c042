"""What each command prints and leaves behind."""

import json
import os
import re
import subprocess
import sys

import pytest

from loraweave import __version__
from loraweave.runs.methods import METHODS


def test_train_prints_mixture_losses_and_paths(command, project, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = command("train", project / "run.yaml", "--set", "method.r=2", "--output", folder)
    assert code == 0
    assert out.index("mixture") < out.index("validation loss") < out.index(str(folder / "adapter"))
    for task in ("parity", "double", "notes"):
        assert task in out
    assert json.loads((folder / "summary.json").read_text())["rank"] == 2


def test_eval_prints_scores_and_keeps_every_evaluation(command, trained):
    code, out, _ = command("eval", trained, "--tasks", "double,parity", "--limit", 4)
    assert code == 0
    assert out.index("double") < out.index("parity")
    assert "notes" not in out
    assert command("eval", trained)[0] == 0
    assert command("eval", trained)[0] == 0
    kept = json.loads((trained / "results.json").read_text())["evaluations"]
    assert [(evaluation["settings"]["limit"], len(evaluation["scores"])) for evaluation in kept] == [(4, 2), (None, 3)]
    assert kept[1]["environment"]["packages"]["lm_eval"]
    assert kept[1]["tasks"]["parity"]["config"]["doc_to_target"] == "{{label}}"
    score = kept[1]["scores"]["notes"]["score"]
    assert f"{score:.3f}" in command("eval", trained, "--tasks", "notes")[1]


def test_eval_shows_what_was_forgotten(command, trained, tmp_path):
    run, text = trained, tmp_path / "story.txt"
    text.write_text("Once there was a model. " * 60)
    code, out, _ = command("eval", run, "--tasks", "parity", "--limit", 4, "--forgetting", f"plain_english,{text}")
    assert code == 0
    below = out[out.index("not trained for") :]
    assert below.index("plain_english") < below.index("story")
    assert "bits per byte ↓" in below
    kept = json.loads((run / "results.json").read_text())["evaluations"][-1]
    assert set(kept["forgetting"]["scores"]) == set(kept["forgetting"]["base"]) == {"plain_english", "story"}
    assert kept["settings"]["forgetting"] == ["plain_english", str(text)]
    assert 'id="forgetting"' in (run / "evaluation.html").read_text()
    code, _, err = command("eval", run, "--forgetting", "nowhere.txt")
    assert (code, "no such file" in err) == (2, True)


def test_eval_shows_the_base_and_keeps_what_was_said(command, trained):
    run = trained
    code, out, err = command("eval", run)
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == [
        "task",
        "score",
        "95",
        "%",
        "interval",
        "base",
        "difference",
        "majority",
        "examples",
        "metric",
    ]
    parity = next(line for line in lines if line.startswith("parity"))
    assert "50.0" in parity  # as many even numbers as odd ones
    assert "Not in the mean: notes: a held-out loss" in out
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {sample["task"] for sample in samples} == {"parity", "double", "notes"}
    first = samples[0]
    assert (first["prompt"], first["target"]) == ("44 is", "even")
    assert first["prediction"] in ("even", "odd")
    assert first["base_prediction"] in ("even", "odd")
    assert first["outcome"] == 100.0 * (first["prediction"] == "even")
    note = samples[-1]
    assert (note["prompt"], note["target"], note["prediction"]) == ("Note 29:", " remember 2</s>", None)
    kept = json.loads((run / "results.json").read_text())["evaluations"][-1]
    difference = kept["differences"]["notes"]
    assert difference["mean"] == pytest.approx(
        kept["scores"]["notes"]["score"] - kept["base"]["notes"]["score"], abs=1e-5
    )
    assert difference["mean"] < 0 < difference["interval"]
    assert kept["majority"] == {"parity": 50.0}
    page = (run / "evaluation.html").read_text()
    assert "<h1>lora on 3 tasks</h1>" in page
    assert "Difference" in page

    code, out, _ = command("eval", run, "--no-base", "--tasks", "parity")
    assert code == 0
    assert "base" not in out.splitlines()[0]
    assert "base_prediction" not in (run / "samples.jsonl").read_text()
    assert "Difference" not in (run / "evaluation.html").read_text()


def test_eval_gives_a_sign_of_life_where_there_is_no_terminal(command, trained, monkeypatch):
    monkeypatch.setattr("loraweave.heartbeat.EVERY", 0.01)
    monkeypatch.setattr("loraweave.heartbeat.Heartbeat.__init__.__defaults__", (0.01,))
    code, _, err = command("eval", trained, "--limit", 2)
    assert code == 0
    assert "loading the run (" in err
    assert re.search(r"base: \w+, \d of \d requests \(", err)


def test_compare_ends_with_the_table_and_the_paths(command, project, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["loraweave", "compare", "run.yaml"])
    code, out, err = command("compare", project / "run.yaml", "--methods", "lora", "--output", folder)
    assert code == 0
    for part in ("base", "lora", "parity", "double", "notes", "mean", "memory"):
        assert part in out
    assert out.index("memory") < out.index("against") < out.index("Take ") < out.index("results.json")
    for path in ("runs/lora-seed0/adapter", "results.json", "index.html"):
        assert str(folder / path) in out
        assert (folder / path).exists()
    assert "lora, seed 0: step 6/6" in err
    assert json.loads((folder / "results.json").read_text())["command"] == "loraweave compare run.yaml"

    code, _, err = command("compare", project / "run.yaml", "--methods", "lora", "--output", folder, "--resume")
    assert code == 0
    assert "step" not in err  # nothing was left to run


def test_compare_with_a_failed_run_prints_the_rest_and_ends_with_one(command, project, tmp_path):
    code, out, err = command(
        *("compare", project / "run.yaml", "--methods", "lora,multilora", "--output", tmp_path / "out"),
        *("--set", "method.name=lora", "--set", "method.target_modules=[no_such_layer]"),
    )
    assert code == 1
    assert "lora failed" in out
    assert "multilora-seed0" in out
    assert "no_such_layer" in err


def test_methods_lists_all_with_their_papers(command):
    code, out, _ = command("methods")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert set(METHODS) <= set(lines)
    assert "2106.09685" in lines["lora"]
    assert "2502.15455" in lines["rlora"]
    assert "no: depends on x" in lines["rlora"]
    assert "yes" in lines["multilora"]


def test_tasks_show_and_preview(command, project, monkeypatch):
    monkeypatch.chdir(project)
    code, out, _ = command("tasks", "show", "parity.yaml")
    assert code == 0
    for part in ("acc (multiple_choice)", "16 test", "{{number}} is"):
        assert part in out
    code, out, _ = command("tasks", "preview", "double.yaml", "--model", "base", "-n", 2)
    assert code == 0
    assert "Double " in out
    assert "example 2" in out
    assert "example 3" not in out
    assert "reads   'D' 'o' 'u' 'b' 'l' 'e' ' '" in out
    assert " ':' \nlearns  ' ' " in out
    assert "'</s>' \n" in out


def test_a_preview_is_as_long_as_the_rows_of_the_run(command, project):
    (project / "short.yaml").write_text("model: base\nmethod: lora\ntasks: [notes.jsonl]\ntrain: {max_length: 16}\n")
    code, out, _ = command("tasks", "preview", project / "short.yaml", "-n", 1)
    assert (code, "16 tokens, 12 of them with loss" in out) == (0, True), out


def test_the_tasks_of_a_run_file_have_their_data_where_the_option_says(command, project, tmp_path):
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    for name, rows in (("double_train", 3), ("double_test", 2)):
        lines = (project / f"{name}.jsonl").read_text().splitlines(keepends=True)[:rows]
        (elsewhere / f"{name}.jsonl").write_text("".join(lines))
    (project / "one.yaml").write_text("model: base\nmethod: lora\ntasks: [double.yaml]\n")
    for name in ("double.yaml", "one.yaml"):
        code, out, _ = command("tasks", "show", project / name, "--data-dir", elsewhere)
        assert code == 0
        assert "2 training, 1 validation, 2 test" in out


def test_tasks_list_of_a_folder(command, project):
    code, out, _ = command("tasks", "list", "par", "--folder", project)
    assert (code, out.split()) == (0, ["parity", "(file)"])
    assert command("tasks", "list", "none-like-it", "--folder", project)[:2] == (0, ""), "no line, not an empty one"


def test_help_and_version(command):
    code, out, _ = command("--help")
    assert code == 0
    for name in ("tasks", "train", "eval", "compare", "quickstart", "methods"):
        assert name in out
    assert command("--version")[:2] == (0, f"loraweave {__version__}\n")


def test_a_process_ends_with_one_line_and_code_two(project):
    done = subprocess.run(
        [sys.executable, "-c", "from loraweave.cli import main; main()", "train", "absent.yaml"],
        capture_output=True,
        text=True,
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: absent.yaml: no such file\n")
