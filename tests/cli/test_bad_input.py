"""Whatever a person gets wrong ends with one line that says what, exit code 2, and nothing written."""

import contextlib
import json
import os
import shutil

import pytest
from tiny_project import write_base, write_project, write_run_file


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    for part in parts:
        assert part in lines[0]
    assert "error" not in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "absent.yaml"], ["absent.yaml", "no such file"]),
        (["train", "run.yaml", "--set", "trian.max_steps=3"], ["'trian'", "did you mean 'train'"]),
        (["train", "run.yaml", "--set", "train.max_stps=3"], ["train.max_stps", "did you mean 'max_steps'"]),
        (["train", "run.yaml", "--set", "method.r=0"], ["r", "at least 1"]),
        (["train", "run.yaml", "--set", "method=rlroa"], ["'rlroa'", "did you mean 'rlora'"]),
        (["train", "run.yaml", "--set", "max_steps"], ["'max_steps'", "key=value"]),
        (["train", "run.yaml", "--set", "model=./nowhere"], ["nowhere", "no such folder"]),
        (["compare", "run.yaml", "--methods", "lora,rlroa"], ["'rlroa'", "did you mean 'rlora'"]),
        (["compare", "run.yaml", "--methods", "lora", "--seeds", "0,one"], ["'0,one'", "whole numbers"]),
        (["compare", "run.yaml", "--methods", "lora", "--seeds", "0,0"], ["different whole numbers"]),
        (["compare", "run.yaml", "--methods", "lora", "--seeds", "4294967296"], ["whole numbers from 0 to 4294967295"]),
        (["compare", "run.yaml", "--methods", "lora", "--learning-rates", "0.5x,two"], ["'two'", "such as 0.5x"]),
        (["compare", "run.yaml", "--methods", "lora,mlora", "--against", "lroa"], ["'lroa'", "did you mean 'lora'"]),
        (
            ["compare", "run.yaml", "--methods", "lora", "--learning-rates", "1x", "--set", "train.eval_strategy=no"],
            ["train.eval_strategy is no", "epoch or steps"],
        ),
        (["compare", "run.yaml", "--methods", ","], ["name at least one method"]),
        (["eval", "base"], ["holds no run"]),
        (["eval", "nowhere"], ["nowhere", "no run"]),
        (["tasks", "show", "absent.yaml"], ["absent.yaml"]),
        (["tasks", "preview", "parity.yaml", "--model", "./nowhere"], ["nowhere"]),
        (["trian"], ["trian"]),
        (["train", "run.yaml", "--frobnicate"], ["--frobnicate"]),
    ],
)
def test_one_line_and_nothing_written(command, project, trained, monkeypatch, arguments, parts):
    monkeypatch.chdir(project)
    before = sorted(project.iterdir())
    refused(command(*arguments), *parts)
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("run.yaml", "model: base\ntasks: [parity.yaml\nmethod: lora\n", ["run.yaml:3", "YAML"]),
        ("run.yaml", "model: base\nmixture: {strategy: equal}\n", ["run.yaml", "tasks"]),
        ("run.yaml", "model: base\ntasks: [absent.yaml]\n", ["absent.yaml"]),
        ("notes.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": \n', ["notes.jsonl", "2"]),
        ("notes.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', ["notes.jsonl", "2", "completion"]),
        ("notes.jsonl", "", ["notes.jsonl"]),
        ("parity_train.jsonl", '{"number": 1, "label": "strange"}\n', ["parity_train.jsonl", "strange", "choices"]),
    ],
)
def test_bad_files_name_the_file_and_the_place(command, tmp_path, file, content, parts):
    project = write_project(tmp_path / "project")
    write_run_file(project)
    (project / file).write_text(content)
    refused(command("train", project / "run.yaml", "--output", tmp_path / "run"), *parts)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_folder_that_holds_a_run_is_left_alone(command, project, trained):
    before = (trained / "summary.json").read_text()
    refused(command("train", project / "run.yaml", "--output", trained), "already holds a run")
    assert (trained / "summary.json").read_text() == before


def test_an_unknown_task_of_a_run(command, trained):
    refused(command("eval", trained, "--tasks", "parity,duoble"), "'duoble'", "did you mean 'double'")


def test_a_base_that_is_not_the_adapters(command, trained, tmp_path):
    write_base(tmp_path / "other", seed=1)
    config = (trained / "run.yaml").read_text()
    line = next(line for line in config.splitlines() if line.startswith("model:"))
    (trained / "run.yaml").write_text(config.replace(line, f"model: {tmp_path / 'other'}"))
    refused(command("eval", trained), "base")


def test_a_model_folder_without_weights(command, project, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(project / "base", empty)
    (empty / "model.safetensors").unlink()
    refused(
        command("train", project / "run.yaml", "--set", f"model={empty}", "--output", tmp_path / "run"), "no weights"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "{}"),
        ("chat", "{}"),
        ("predict", "{}", "--task", "x", "--file", "{}/rows.jsonl", "--output", "{}/out.jsonl"),
        ("serve", "{}", "--port", "0"),
        ("export", "{}", "--to", "lora", "--output", "{}/out"),
    ],
)
def test_a_comparison_where_one_run_is_wanted_names_its_runs(words, command, tmp_path):
    (tmp_path / "runs" / "lora-seed0").mkdir(parents=True)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')
    refused(command(*(word.format(tmp_path) for word in words)), "holds a comparison", "lora-seed0")


def test_what_only_a_library_is_asked_is_refused_elsewhere(command, tmp_path):
    refused(command("serve", tmp_path, "--experts", 3), "--experts is of a library of experts, and this is none")


def test_results_that_are_not_ours_are_left_alone(command, trained, monkeypatch):
    """And are found before hours of scoring."""
    monkeypatch.setattr("loraweave.evaluation.evaluate", lambda *_, **__: pytest.fail("scored"))
    (trained / "results.json").write_text(json.dumps(["mine"]))
    refused(command("eval", trained, "--limit", 1), "results.json")
    assert json.loads((trained / "results.json").read_text()) == ["mine"]


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("summary.json", "{", ["summary.json: cannot be read"]),
        ("summary.json", "{}", ["summary.json: not as this version writes it: adapter: Field required"]),
        ("base.json", None, ["base.json: cannot be read: No such file"]),
        ("base.json", "[]", ["base.json: cannot be read", "not list"]),
        (
            "adapter/adapter_model.safetensors",
            "x",
            ["damaged, adapter/adapter_model.safetensors is not as it was written"],
        ),
        ("adapter/adapter_model.safetensors", None, ["damaged, adapter/adapter_model.safetensors is missing"]),
        ("adapter/adapter_config.json", "{", ["damaged, adapter/adapter_config.json is not as it was written"]),
    ],
)
def test_a_damaged_run_names_the_file(command, trained, file, content, parts):
    (trained / file).unlink()
    if content is not None:
        (trained / file).write_text(content)
    refused(command("eval", trained, "--limit", 1), *parts)


def test_no_task_to_evaluate(command, trained):
    refused(command("eval", trained, "--tasks", ","), "--tasks", "parity, double, notes")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_while_scores_are_saved_is_one_line(command, project, trained, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("no permission to mount a small disk")
    try:
        shutil.copytree(trained, disk / "run", ignore=shutil.ignore_patterns("checkpoints", "results.json"))
        with contextlib.suppress(OSError), (disk / "rest").open("wb") as rest:
            rest.write(bytes(400_000))
        refused(command("eval", disk / "run", "--limit", 1), "results.json: the disk is full")
        assert not (disk / "run" / "results.json").exists()
        compared = ("compare", project / "run.yaml", "--methods", "lora", "--set", "eval.limit=1")
        refused(command(*compared, "--output", disk / "compared"), "results.json: the disk is full")
    finally:
        os.system(f"umount -l {disk}")


def test_an_interruption_ends_with_130_and_one_line(command, project, monkeypatch):
    import loraweave.training.run

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loraweave.training.run, "train", interrupted)
    code, _, err = command("train", project / "run.yaml")
    assert (code, err) == (130, "error: interrupted\n")
