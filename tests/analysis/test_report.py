"""The report: it stands alone, its numbers are those of the analysis, and a browser shows it as it is meant to be."""

import base64
import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from analysis.made_up import HEADS, analysis, empty
from browser import WITHOUT, Browser, executable, running

from loraweave.analysis.report import write

ODD = ('<b>bold</b> & "quoted"\'', "a$b$c \\alpha", "🦙", "x" * 120, "tab\tnew\nline", "'; alert(1)//")
VOID = {"meta", "wbr", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Ids, links, texts of elements by tag, and whether every tag was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[dict[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.figures_without_label = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if "href" in given or "src" in given:
            self.links.append(given)
        if tag == "svg" and not given.get("aria-label") and given.get("aria-hidden") != "true":
            self.figures_without_label += 1
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report of three runs."""
    folder = tmp_path_factory.mktemp("report")
    write(analysis(), folder)
    return folder


@pytest.fixture(scope="module")
def odd_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on runs and tasks with names that nobody should give."""
    folder = tmp_path_factory.mktemp("odd")
    write(analysis(["rlora"], ODD, modules=["q_proj"], name=ODD[0] + "{}" + ODD[3]), folder)
    return folder


def page_of(folder: Path) -> tuple[Page, str]:
    text = (folder / "report.html").read_text()
    return Page(text), text


def test_is_well_formed_and_stands_alone(report):
    page, text = page_of(report)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.figures_without_label == 0
    assert "<script" not in text
    assert "http" not in text
    assert "url(" not in text.replace("url(#", "")
    assert {link["href"].partition(":")[0] for link in page.links} <= {"data", "analysis.json", *_own_shapes(page)}


def _own_shapes(page: Page) -> set[str]:
    return {f"#{name}" for name in page.ids}


def test_every_figure_has_its_numbers_beside_it_and_as_files(report):
    page, _ = page_of(report)
    downloads = {link["download"]: link["href"] for link in page.links if "download" in link}
    assert downloads.keys() == {path.name for path in (report / "data").iterdir()}
    for name, address in downloads.items():
        content = base64.b64decode(address.partition(",")[2]).decode()
        assert content == (report / "data" / name).read_text()
        head, *rows = csv.reader(io.StringIO(content))
        assert rows
        assert all(len(row) == len(head) for row in rows)
    tables = ("typical_tokens", "validation_loss")  # of which there is one look
    drawn = {name.removesuffix(".csv") for name in downloads if not name.startswith(tables)}
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{n}.{end}" for n in drawn for end in ("png", "svg")
    }


def test_all_sections_are_there(report):
    page, _ = page_of(report)
    assert page.texts["h2"] == [
        "Spectrum of the update",
        "Do the runs use the same directions?",
        "Heads",
        "Routing",
        "Tasks against each other",
        "Training",
    ]


def test_the_lead_says_what_the_numbers_say(report):
    _, text = page_of(report)
    found = analysis()
    spread = {e["run"]: e["effective_rank"] for e in found["spectrum_summary"] if e["module"] == "all"}
    for run, value in spread.items():
        assert re.search(rf"of {run} (spreads )?over {value:.1f} of 8", text)
    assert "The mean cosine between two heads is 0.25 in multilora and 0.25 in rlora; " in text
    assert "; between their changes since the random start it is 0.75 in rlora." in text
    assert "100 % in rlora" in text
    assert "against 0.90 of a task with itself" in text
    assert "most apart are sort and reverse (−0.20 in lora)" in text


def test_a_single_run_on_a_single_task(tmp_path):
    write(analysis(["rlora"], ["sort"]), tmp_path)
    page, _ = page_of(tmp_path)
    assert "Do the runs use the same directions?" not in page.texts["h2"]
    assert "Tasks against each other" not in page.texts["h2"]
    assert "What rlora learned" in page.texts["h1"]


def test_layers_without_a_depth(tmp_path):
    found = analysis(["rlora"], ["sort"], modules=["q_proj"])
    for entry in [*found["spectra"], *found["heads"], *found["routing"]]:
        entry["depth"] = None
    write(found, tmp_path)
    page, _ = page_of(tmp_path)
    assert "Similarity of heads" in page.texts["h3"]
    assert "Similarity of heads by layer" not in page.texts["h3"]


def test_many_notes_open_on_a_click(tmp_path):
    write(empty() | {"notes": [f"note {n}" for n in range(9)]}, tmp_path)
    page, text = page_of(tmp_path)
    assert any(summary.startswith("Notes") for summary in page.texts["summary"])
    assert text.count("<li>note ") == 9


def test_of_nothing_only_the_runs_and_the_reasons_are_shown(tmp_path):
    write(empty(), tmp_path)
    page, text = page_of(tmp_path)
    assert page.open == []
    assert "h2" not in page.texts
    assert "said in words &amp; signs" in text


def test_names_are_text_whatever_they_hold(odd_report):
    page, text = page_of(odd_report)
    assert page.open == []
    assert "b" not in page.texts
    assert "script" not in page.texts
    assert any(ODD[0] in caption for caption in page.texts["figcaption"])
    assert "🦙" in text
    for path in (odd_report / "figures").glob("*.svg"):
        assert "<b>" not in path.read_text()


@pytest.mark.long
def test_many_runs_tasks_and_layers_fit(tmp_path):
    methods = ("lora", "rslora", "dora", "alignlora", "rlora", "full")
    write(analysis(methods, [f"task_{n}" for n in range(12)], layers=60, modules=["q_proj"]), tmp_path)
    page, text = page_of(tmp_path)
    assert "are drawn one by one" in text
    assert len(text) < 5_000_000
    assert page.figures_without_label == 0


def test_typical_tokens_show_their_white_space(report):
    page, _ = page_of(report)
    assert page.texts["code"].count("␣a↵<b>") == HEADS
    assert "data/typical_tokens_0.csv" in {str(path.relative_to(report)) for path in report.rglob("*.csv")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    if not executable():
        pytest.skip(WITHOUT)
    with running(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("folder", ["report", "odd_report"])
def test_renders_in_a_browser(browser: Browser, request, tmp_path, folder, width):
    alone = shutil.copy(request.getfixturevalue(folder) / "report.html", tmp_path)
    page = browser.open(Path(alone), width)
    assert page.errors == []
    assert [address for address in page.requests if not address.startswith("file:")] == []
    assert len(page.requests) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(each => [each.getBoundingClientRect().width, "
        "each.getBoundingClientRect().height, each.querySelectorAll('path, use').length])"
    )
    assert len(boxes) > 20
    assert all(min(box) > 0 for box in boxes)


def test_wide_tables_scroll_within_themselves(browser, report):
    page = browser.open(report / "report.html", 390)
    assert page.evaluate(
        "document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth"
    )
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(each => each.tabIndex == 0)")


def test_figures_follow_light_and_dark(browser, report):
    colours = "['stroke', 'fill', 'color'].map(name => getComputedStyle(document.querySelector({}))[name])"
    seen = []
    for dark in (False, True):
        page = browser.open(report / "report.html", 1280, dark)
        line = page.evaluate(colours.format("'figure svg path[style*=series-0]'"))
        ink = page.evaluate(colours.format("'figure svg text'"))
        seen.append([line[0], ink[1], page.evaluate("getComputedStyle(document.body).backgroundColor")])
    assert all(light != dark for light, dark in zip(*seen, strict=True))
