"""The page: it stands alone, and its numbers are those of results.json."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from comparison.recorded import PERCENT_TASKS, concluded, recorded_search, results
from markupsafe import escape

from loraweave.comparison import words
from loraweave.comparison.page import write_page

VOID = {"meta", "wbr", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Rows of tables as lists of cell texts, links, and whether every tag was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.cell: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


@pytest.fixture
def page(tmp_path):
    def build(found) -> tuple[Page, str]:
        write_page(found, tmp_path / "index.html")
        text = (tmp_path / "index.html").read_text()
        return Page(text), text

    return build


def test_is_well_formed_and_stands_alone(page):
    parsed, text = page(results(losses=["notes"], failed=("rlora", 1)))
    assert parsed.open == []
    assert {link for link in parsed.links if not link.startswith("data:text/csv;")} == {"results.json"}
    assert "http" not in text
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")  # within the page


def test_table_has_the_numbers_of_the_results_in_the_order_of_the_mean(page):
    found = results(losses=["notes"])
    parsed, _ = page(found)
    head, *rows = parsed.tables[0]
    assert [cell[: len(name)] for cell, name in zip(head[3:], found["tasks"], strict=False)] == list(found["tasks"])
    assert all(cell.endswith("n 200") for cell in head[3 : 3 + len(found["tasks"])])
    ordered = sorted(found["summary"], key=lambda summary: -summary["mean"]["mean"])
    for row, summary in zip(rows, ordered, strict=True):
        assert row[0].strip() == summary["method"]
        assert row[1] == "".join(words.score(summary["mean"], "%"))
        assert row[2] == ("–" if summary["method"] == "base" else "3")
        for cell, (task, value) in zip(row[3:], summary["scores"].items(), strict=False):
            assert cell == "".join(words.score(value, found["tasks"][task]["unit"]))


def test_a_sentence_below_the_verdict_says_for_what_it_holds(page):
    _, text = page(results())
    sentence = (
        "This holds for nano trained for 19 steps on 2,400 examples of 3 tasks and scored on 200 examples a task;"
    )
    assert text.index('id="recommendation"') < text.index(sentence) < text.index('id="scores"')
    again = results()
    again["runs"][1]["mixture"] = [{"task": "sort", "drawn": 1600, "available": 200}, {"task": "a", "drawn": 800}]
    assert "on 2,400 examples of 2 tasks (1,000 different ones) and scored" in page(again)[1]
    failed = results(methods=["lora"], seeds=[0], failed=("lora", 0))
    failed["settings"]["config"]["model"] = {"name": "models/nano", "dtype": "bfloat16"}
    _, text = page(failed)
    assert "holds for" not in text
    assert "Base model nano (dtype bfloat16)" in text


def test_the_mean_of_a_run_that_lacks_a_task_is_not_the_mean_of_the_others(page):
    found = results(losses=["notes"])
    run = next(run for run in found["runs"] if run["method"] == "lora")
    for name in PERCENT_TASKS[:2]:
        del run["scores"][name]
    parsed, _ = page(concluded(found))
    lines = {row[0].strip(): row for table in parsed.tables for row in table if "seed" in row[0]}
    means = {name: row[1 + len(found["tasks"])] for name, row in lines.items()}
    assert means.pop(f"lora, seed {run['seed']}") == "–"
    assert means
    assert all(float(mean) > 50 for mean in means.values())


def test_the_length_of_a_training_is_that_of_its_last_look(page):
    found = results()
    for run in found["runs"]:
        run["curves"]["validation"] = {name: [(10, 2.0), (20, 1.0)] for name in run["curves"]["training"]}
    assert "trained for 20 steps" in page(found)[1]


def test_the_recommendation_comes_first(page):
    found = results(methods=["lora", "rlora"], failed=("rlora", 1))
    _, text = page(found)
    taken = found["recommendation"]["method"]
    assert f"<strong>Take {taken}.</strong>" in text
    for point in found["recommendation"]["points"]:
        assert str(escape(point)) in text
    assert text.index("<strong>Take") < text.index('id="scores"') < text.index('id="against"')


def test_differences_have_the_numbers_of_the_results(page):
    found = results(methods=["base", "lora", "rlora", "full"], losses=["notes"])
    parsed, _ = page(found)
    head, *rows = parsed.tables[1]
    assert head[-3:] == ["Wins", "Ties", "Losses"]
    means = {row["method"]: row["mean"]["mean"] for row in found["summary"]}
    ordered = sorted(found["differences"], key=lambda each: -means[each["method"]])
    for row, each in zip(rows, ordered, strict=True):
        assert row[0] == each["method"]
        for cell, (task, difference) in zip(row[1:], each["tasks"].items(), strict=False):
            digits = 1 if found["tasks"][task]["unit"] == "%" else 3
            mark = {"win": "▲ ", "loss": "▼ ", "tie": ""}[difference["verdict"]]
            number = f"{difference['mean']:+.{digits}f}".replace("-", "−")
            assert cell == f"{mark}{number}±{difference['interval']:.{digits}f}"
        verdicts = [difference["verdict"] for difference in each["tasks"].values()]
        assert [int(cell) for cell in row[-3:]] == [verdicts.count(kind) for kind in ("win", "tie", "loss")]


def test_the_search_has_a_panel_for_each_method(page):
    found = results(methods=["base", "lora", "rlora"])
    found["searches"] = [
        recorded_search("lora", {1e-3: 0.5, 2e-3: 0.4, 4e-3: None}),
        recorded_search("rlora", {1e-3: 0.7, 2e-3: 0.8}),
    ]
    parsed, text = page(found)
    assert parsed.open == []
    drawn = text[text.index('id="search"') : text.index("</article>", text.index('id="search"'))]
    assert drawn.count("<figure>") == 2
    assert "0.002" in drawn
    assert 'id="search"' not in page(results())[1]


def test_one_look_at_the_validation_loss_is_a_table_and_no_curve(page):
    found = results()
    for run in found["runs"]:
        run["curves"]["validation"] = {task: [(300, 0.5)] for task in run["curves"]["training"]}
    parsed, text = page(found)
    assert "Validation loss against lora, by task" not in text
    (final,) = (table for table in parsed.tables if table[0][0] == "validation loss, nats per token")
    assert final[1:] == [["lora", "0.5", "0.5", "0.5"], ["rlora", "0.5", "0.5", "0.5"]]
    for run in found["runs"]:
        run["curves"]["validation"] = {task: [(150, 0.9), (300, 0.5)] for task in run["curves"]["training"]}
    assert "Validation loss against lora, by task" in page(found)[1]


def test_the_numbers_of_the_losses_are_one_click_away(page):
    found = results(methods=["base", "lora", "rlora"], seeds=[0, 1])
    parsed, text = page(found)
    assert text.count(">training step<") == len(found["tasks"])
    head = ["task", "method", "step", "loss minus that of lora, nats per token"]
    (table,) = (table for table in parsed.tables if table[0] == head)
    assert {(task, method) for task, method, *_ in table[1:]} == {(task, "rlora") for task in found["tasks"]}


def test_says_how_to_repeat_it(page):
    _, text = page(results())
    assert "loraweave compare run.yaml" in text
    assert "&lt;rlora&gt;" in text  # whatever was typed is text, not markup
    assert "torch: 2.13.0" in text
    assert "model: nano" in text


def test_a_comparison_in_which_everything_failed_has_a_page(page):
    parsed, text = page(results(methods=["lora"], seeds=[0], failed=("lora", 0)))
    assert parsed.open == []
    assert "no method has a result" in text


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to render with")
@pytest.mark.parametrize("width", [1280, 390])
def test_renders_without_console_errors_and_without_sideways_scrolling(page, tmp_path, width):
    page(results(losses=["notes"]))
    path: Path = tmp_path / "index.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    path.write_text(path.read_text().replace("</body>", probe))
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    wide, _, inner = done.stdout.split("<title>")[1].split("</title>")[0].partition(" of ")
    assert int(wide) <= int(inner)
    assert "CONSOLE" not in done.stderr
