"""What is printed stands there as it is: names are no markup, no emoji and no orders to the terminal."""

import io

from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from loraweave.terminal import WIDTH_OFF_TERMINAL, plain_console, tame

NAME = "out[/b]x [bold]y[/] :smile: \x1b]0;title \x9b31m"
SHOWN = "out[/b]x [bold]y[/] :smile: �]0;title �31m"


def test_a_name_stands_as_it_is_wherever_it_is_printed(capsys):
    console = plain_console()
    table = Table("task", title=NAME, box=None)
    table.add_row(NAME)
    table.add_row(Text(NAME, style="bold"))
    console.print(NAME, style="dim", soft_wrap=True)
    console.print(table)
    out = capsys.readouterr().out
    assert out.count("\x1b") == 0
    assert [line.strip() for line in out.splitlines()].count(SHOWN) == 4


def test_a_console_of_a_terminal_keeps_its_own_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = plain_console()
    console.file, console._force_terminal, console._color_system = io.StringIO(), True, None
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task("[/] :smile:")
        console.print(NAME)
    written = console.file.getvalue()
    assert SHOWN in written
    assert "\x1b]0;title" not in written
    assert "\n[/] :smile:\n" in written
    assert "\x1b[?25l" in written  # the bar has hidden the cursor


def test_off_a_terminal_the_width_is_fixed(capsys):
    assert plain_console().width == WIDTH_OFF_TERMINAL


def test_tame_keeps_what_text_is_made_of():
    assert tame("a\tb\nc é 漢 \u2028") == "a\tb\nc é 漢 \u2028"
