"""A page per method, and every run file on it is one that the package takes."""

import re
from pathlib import Path

import pytest
import yaml

from loraweave.config import PRESETS
from loraweave.runs.config import RunConfig
from loraweave.runs.methods import METHODS, choose_method

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
OF_A_PAPER = [*PRESETS, "alignlora"]


def run_files(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("name", OF_A_PAPER)
def test_the_page_says_what_every_page_says_and_its_run_file_is_ready(name: str, tmp_path: Path) -> None:
    page = PAGES / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    for heading in ("**Idea.**", "**Formula.**", "**Cost.**", "**When.**", "**Here and there.**"):
        assert heading in text
    assert METHODS[name].paper in text
    (run_file,) = run_files(page)
    (tmp_path / "run.yaml").write_text(run_file)
    config = RunConfig.load(tmp_path / "run.yaml")
    assert config.method_name == name
    assert choose_method(config.method).peft_config(["a", "b"]) is not None
    assert yaml.safe_load(run_file)["model"] == config.model


def test_the_overview_links_to_every_page() -> None:
    overview = (PAGES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.md\)", overview)) == set(OF_A_PAPER)
    assert {page.stem for page in PAGES.glob("*.md")} == {*OF_A_PAPER, "README"}
