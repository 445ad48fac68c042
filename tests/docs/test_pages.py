"""What pages print can be typed: run files, Python, `make`, modules, files, variables, extras; rooms are as there."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import write_base

import loraweave
from loraweave.experts.config import ExpertsConfig
from loraweave.runs.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
NEEDED = {"model": "nano", "tasks": ["boolq"]}
"""What a run file needs and a part of one may leave out."""
OURS = "\n".join(re.findall(r"^\| L\d \|.*$", TEXTS["docs/compare_projects.md"], flags=re.MULTILINE))


def blocks(kind: str) -> list[Any]:
    """(page, code) of every fenced block of a kind."""
    found = re.compile(rf"^```{kind}\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    listed = ((page, code) for page, text in TEXTS.items() for code in found.findall(text))
    return [pytest.param(page, code, id=f"{page}-{number}") for number, (page, code) in enumerate(listed)]


def said(pattern: str) -> list[tuple[str, str]]:
    """(page, what the pattern's group is) for every place in a page where it fits, each once."""
    return sorted({(page, found) for page, text in TEXTS.items() for found in re.findall(pattern, text, re.MULTILINE)})


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_a_run_file_or_a_part_of_one_is_read(tmp_path: Path, page: str, code: str) -> None:
    written = NEEDED | yaml.safe_load(code)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    kind = ExpertsConfig if "experts" in written else RunConfig
    assert kind.load(tmp_path / "run.yaml").tasks


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_names_that_python_on_a_page_takes_are_there(page: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "loraweave":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "loraweave":
            assert hasattr(loraweave, node.attr), f"{page}: loraweave.{node.attr}"


@pytest.mark.parametrize(("page", "call"), said(r"\*\*In Python\*\* `(\w+Config\([^`]*\))`"))
def test_a_configuration_that_a_page_writes_can_be_made(page: str, call: str) -> None:
    config = eval(call.replace("[...]", "['boolq', 'rte']"), vars(loraweave) | loraweave_names())
    assert config.method == Path(page).stem


def loraweave_names() -> dict[str, Any]:
    """The public names, which the package gives when it is asked for them."""
    return {name: getattr(loraweave, name) for name in loraweave.__all__}


def test_the_way_in_from_peft_runs_as_the_readme_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    code = next(block.values[1] for block in blocks("python") if "get_peft_model" in str(block.values[1]))
    names: dict[str, Any] = {}
    exec(compile(code.replace("Qwen/Qwen2.5-0.5B", str(tmp_path / "base")), "README.md", "exec"), names)
    assert names["model"].active_peft_config.method == "multilora"


def test_what_make_is_told_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    asked = said(r"^ {4}make ([^#\n]+?)(?: {2,}|$)") + said(r"`make ([\w-]+)`")
    assert len(asked) > 10
    for page, words in asked:
        assert {word for word in words.split() if "=" not in word} <= targets, f"{page}: make {words}"


def test_modules_that_are_run_are_there() -> None:
    asked = said(r"cd benchmarks && (?:\.\./\S+/)?python -m ([\w.]+)")
    assert {name.split(".")[0] for _, name in asked} >= {"speed", "intervals", "search", "memory", "study"}
    for page, name in asked:
        path = ROOT / "benchmarks" / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page}: python -m {name}"


def test_files_that_are_named_are_there() -> None:
    for page, path in said(r"`((?:src|tests|docs|benchmarks|examples|scripts|packages)/[\w./-]*)`"):
        elsewhere = page == "docs/compare_projects.md" and f"`{path}`" not in OURS  # files of the other projects
        assert elsewhere or path == "docs/methods/NAME.md" or (ROOT / path).exists(), f"{page} names {path}"


def test_variables_and_extras_are_there() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    for page, name in said(r"(LORAWEAVE_[A-Z_]+)"):
        assert f'"{name}"' in code, f"{page}: {name}"
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], flags=re.MULTILINE)
    for page, listed in said(r"loraweave\[([\w,]+)\]"):
        assert set(listed.split(",")) <= set(extras), f"{page}: loraweave[{listed}]"


def test_the_house_as_described_has_the_rooms_that_there_are() -> None:
    table = TEXTS["docs/architecture.md"].partition("| room |")[2].partition("\n\n")[0]
    rooms = [room for row in table.splitlines()[2:] for room in re.findall(r"`([\w.]+)/?`", row.split(" | ")[0])]
    source = ROOT / "src" / "loraweave"
    there = {path.name for path in source.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(rooms) == there | {path.name for path in source.glob("*.py") if path.name != "__init__.py"}
    assert len(rooms) == len(set(rooms))
