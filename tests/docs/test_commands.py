"""What pages type works: every `loraweave` command on them exists, with its options; README's run file is one."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from loraweave.cli.app import app
from loraweave.runs.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "comparison" / "README.md"]


def typed(page: Path) -> list[str]:
    """The commands in a page's blocks of code, without what is said beside them."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text(encoding="utf-8"))
    lines = re.findall(r"^(?: {4}|\$ )?(loraweave (?![a-z]+ [a-z]+ [a-z]+ [a-z]+ ).*)$", text, flags=re.MULTILINE)
    return [re.split(r"\s{2,}|\s+#|…", line)[0].strip() for line in lines]


COMMANDS = sorted({(str(page.relative_to(ROOT)), line) for page in PAGES for line in typed(page)})


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_that_a_page_types_exists_with_its_options(page, line):
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    context = command.make_context("loraweave", [], resilient_parsing=True)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: `{line}`: there is no command {name!r}"
        command = command.commands[name]
        context = type(context)(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(words)  # NoSuchOption where a page names one that there is not


def test_an_option_that_there_is_not_would_be_seen():
    with pytest.raises(Exception, match="--nonsense"):
        test_a_command_that_a_page_types_exists_with_its_options("a page", "loraweave train run.yaml --nonsense")


def test_pages_type_most_commands():
    assert len(COMMANDS) > 20
    assert {"train", "eval", "compare", "analyze", "methods"} <= {line.split()[1] for _, line in COMMANDS}


def test_the_run_file_of_the_readme_is_one(tmp_path):
    (run_file,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "run.yaml").write_text(run_file)
    config = RunConfig.load(tmp_path / "run.yaml")
    assert (config.method_name, len(config.tasks), config.mixture.strategy) == ("lora", 5, "temperature")
