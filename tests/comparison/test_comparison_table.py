"""The table on the terminal: it fits, and nothing is cut off."""

import io

import pytest
from comparison.recorded import results
from rich.console import Console

from loraweave.comparison import comparison_table, words

TEN = ["trec", "sst2", "ag_news", "emotion", "snips", "langid", "inflect_en", "scan", "wikisql", "mawps"]


def printed(found, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(comparison_table(found, width))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_fits_and_shows_every_number(width):
    found = results(tasks=TEN, losses=["notes"])
    text = printed(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in found["summary"]:
        assert row["method"] in text
        for task, value in row["scores"].items():
            digits = 1 if found["tasks"][task]["unit"] == "%" else 3
            assert f"{value['mean']:.{digits}f}" in text
            assert words.score(value, found["tasks"][task]["unit"])[1] in text


def test_ten_tasks_and_one_seed_fit_into_one_table_of_120():
    text = printed(results(tasks=TEN, seeds=[0]), 120)
    assert sum(line.startswith("method") for line in text.splitlines()) == 1
    for head in (*TEN, "mean", "params", "time", "memory"):
        assert head in text


def test_narrow_terminals_get_the_totals_together():
    text = printed(results(), 60)
    assert text.count("method") > 1
    assert any({"method", "mean", "params", "time", "memory"} <= set(line.split()) for line in text.splitlines())


def test_failed_runs_are_seen():
    assert "rlora 2/3" in printed(results(failed=("rlora", 1)), 100)
    assert "rlora failed" in printed(results(failed=("rlora", 0), seeds=[0]), 100)
