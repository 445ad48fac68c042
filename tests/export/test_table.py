"""Every preset to every target: exact, measured, or refused and why; the table of docs/export.md is a print of this."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import ADAPTERS, NAMES, SMALL

from loraweave.errors import UserError
from loraweave.export import export

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
TARGETS = ("lora", "merged", "gguf")
BEGIN, END = "<!-- table: printed by `make exports` -->\n", "<!-- end of the table -->"


def outcome(run: Path, to: str, output: Path) -> tuple[str, str]:
    """What comes of one export: a word for the table, and why it is refused."""
    try:
        made = export(run, to, output, limit=2)
    except UserError as error:
        if "--task NAME" in str(error):
            (made,) = export(run, to, output, tasks=NAMES[:1], limit=2)
            assert not made.exact
            assert made.differences[NAMES[0]].kl > 0
            return "measured, with `--task` or `--uniform`", ""
        assert not output.exists()
        return "refused", str(error).partition(": ")[2]
    assert all(each.exact for each in made)
    return "exact" if len(made) == 1 else "exact, a folder for each task", ""


def table(finished: Callable[..., Path], folder: Path) -> str:
    lines = ["| method | " + " | ".join(f"`--to {to}`" for to in TARGETS) + " |", "| --- " * (len(TARGETS) + 1) + "|"]
    reasons: list[str] = []
    for name in ADAPTERS:
        cells = []
        for to in TARGETS:
            word, why = outcome(finished({"name": name, **SMALL}), to, folder / f"{name}-{to}")
            if why and why not in reasons:
                reasons.append(why)
            cells.append(f"{word} [{reasons.index(why) + 1}]" if why else word)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {why}" for number, why in enumerate(reasons, start=1))]) + "\n"


@pytest.mark.long
def test_the_table_of_the_page_is_what_comes_of_it(finished, tmp_path, request: pytest.FixtureRequest):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    printed = table(finished, tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--write-export", None):
        before, rest = text.split(BEGIN)
        text = before + BEGIN + "\n" + printed + "\n" + END + rest.split(END)[1]
        Path(request.config.getoption("--write-export")).write_text(text, encoding="utf-8")
    found = text.split(BEGIN)[1].split(END)[0].strip()
    assert found == printed.strip(), "print it again: make exports"


def test_every_command_of_the_page_is_one():
    from typer.main import get_command

    from loraweave.cli.app import app

    options = {name for parameter in get_command(app).commands["export"].params for name in parameter.opts}
    for line in re.findall(r"^    loraweave export .*$", PAGE.read_text(encoding="utf-8"), flags=re.M):
        assert set(re.findall(r"--[a-z-]+", line)) <= options
