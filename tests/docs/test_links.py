"""What pages point at is there: targets of links, files that CONTRIBUTING names; and the README's functions run."""

import re
from pathlib import Path

import pytest
from tiny_project import write_project, write_run_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
)
FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        path = link.partition("#")[0]
        if path and "://" not in link and not link.startswith("mailto:"):
            assert (page.parent / path).exists(), f"{page.name} links to {link}"


def test_every_file_that_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|benchmarks|examples|scripts)/[\w./]*)`", text)
    assert len(named) > 25
    for path in set(named) - {"docs/methods/NAME.md"}:
        assert (ROOT / path).exists(), f"CONTRIBUTING.md names {path}"


def test_the_functions_of_the_readme_run_as_they_stand_there(tmp_path, monkeypatch):
    project = write_project(tmp_path / "project")
    write_run_file(project)
    monkeypatch.chdir(project)
    (example,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        if "from loraweave import" in code
    )
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert set(names["scores"]) == {task.name for task in names["run"].tasks} == {"parity", "double", "notes"}
    assert {method for method, _ in names["found"].adapters} == {"lora", "rlora"}
