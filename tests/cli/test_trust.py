"""Files from elsewhere are data: nothing in them runs, on a preview, a dry run or an evaluation of a foreign run."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_project import write_project, write_run_file

FUNCTION = "runs the function 'ran' of"


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, err = result
    assert code == 2, err
    (line,) = err.strip().splitlines()
    for word in words:
        assert word in line


@pytest.fixture
def foreign(trained: Path, tmp_path: Path) -> Path:
    """A run as it might come from elsewhere, with its tasks: one of them names a function that leaves a file."""
    folder = tmp_path / "foreign"
    shutil.copytree(trained, folder)
    write_project(folder / "project")
    (folder / "project" / "helpers.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n\ndef ran(doc):\n    return 'a'\n"
    )
    task = folder / "project" / "double.yaml"
    task.write_text(task.read_text().replace('doc_to_text: "Double {{word}}:"', "doc_to_text: !function helpers.ran"))
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config |= {"base_dir": str(folder / "project"), "model": str(folder / "project" / "base"), "trust_code": True}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_evaluating_a_foreign_run_runs_no_code_of_it(command, foreign, tmp_path):
    refused(command("eval", foreign, "--limit", 1), "double.yaml: doc_to_text", FUNCTION, "helpers.py", "--trust-code")
    refused(command("train", foreign / "run.yaml", "--dry-run"), FUNCTION)
    refused(command("tasks", "preview", foreign / "project" / "double.yaml", "--model", "nano"), FUNCTION)
    refused(command("tasks", "show", foreign / "project" / "double.yaml"), FUNCTION)
    assert not (tmp_path / "ran").exists()
    assert command("eval", foreign, "--limit", 1, "--trust-code")[0] == 0
    assert (tmp_path / "ran").exists()


def test_ones_own_run_file_may_trust_and_the_run_does_not_keep_it(command, foreign, tmp_path):
    project = foreign / "project"
    run_file = write_run_file(project)
    dry = ("train", run_file, "--dry-run", "--output", tmp_path / "run")
    refused(command(*dry), FUNCTION)
    assert command(*dry, "--set", "trust_code=true")[0] == 0
    run = ("train", run_file, "--trust-code", "--set", "train.max_steps=1", "--output", tmp_path / "run")
    assert command(*run)[0] == 0
    assert "trust" not in (tmp_path / "run" / "run.yaml").read_text()
    run_file.write_text("trust_code: true\n" + run_file.read_text())
    assert command(*dry)[0] == 0


@pytest.mark.parametrize(
    "template", ["{{ cycler.__init__.__globals__.os.getcwd() }}", "{% for i in range(10**9) %}{{ i }}{% endfor %}"]
)
def test_a_template_that_is_more_than_a_template(command, foreign, tmp_path, template):
    task = foreign / "project" / "double.yaml"
    task.write_text(task.read_text().replace("!function helpers.ran", json.dumps(template)))
    refused(command("eval", foreign), "double.yaml", "the sandbox")
    refused(command("tasks", "preview", task, "--model", "nano"), "double.yaml", "the sandbox")
    refused(command("train", write_run_file(foreign / "project"), "--dry-run"), "double.yaml", "the sandbox")


def test_the_shared_case_is_refused(command, shared, project, tmp_path):
    case = shared / "cases" / "shell.yaml"
    refused(command("tasks", "preview", case, "--model", "nano"), "shell.yaml", "the sandbox")
    run = tmp_path / "run.yaml"
    run.write_text(f"model: {project / 'base'}\ntasks: [{case}]\n")
    refused(command("train", run, "--dry-run"), "shell.yaml", "the sandbox")


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ range(10**9)|list }}"])
def test_a_tokenizers_template_that_fails(command, project, tmp_path, template):
    base = tmp_path / "base"
    shutil.copytree(project / "base", base)
    (base / "chat_template.jinja").write_text(template)
    said = "the tokenizer's chat template fails: "
    refused(command("tasks", "preview", project / "notes.jsonl", "--chat-template", "--model", base), said)
    run = ("train", project / "run.yaml", "--set", f"model={base}", "--set", "chat_template=true")
    refused(command(*run, "--output", tmp_path / "run"), said)
    refused(command(*run, "--dry-run"), said)


def test_code_that_comes_with_a_base_is_not_run(command, project, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(project / "base", base)
    config = json.loads((base / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    (base / "config.json").write_text(json.dumps(config))
    (base / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda _: "y")  # transformers would ask
    run = ("train", project / "run.yaml", "--set", f"model={base}", "--output", tmp_path / "run")
    refused(command(*run), str(base), "comes with Python code", "--trust-code")
    refused(command(*run, "--dry-run"), "comes with Python code")
    assert not (tmp_path / "ran").exists()
