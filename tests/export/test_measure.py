"""The rows that an export is measured and averaged on."""

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tiny_project import byte_llama, byte_tokenizer
from tiny_runs import SMALL

from loraweave.data.encode import TooLongError
from loraweave.export import export, write
from loraweave.export.measure import AVERAGED, CHECKED, Bench
from loraweave.export.variants import Variant
from loraweave.tasks.examples import Example


@pytest.mark.parametrize("count", [0, 3, AVERAGED, AVERAGED + 10, 2 * AVERAGED - 1])
def test_rows_that_heads_are_averaged_over_are_from_all_of_a_file(count: int) -> None:
    """Which may be sorted: half of a file with two labels may have one of them alone."""
    task = SimpleNamespace(training_examples=lambda: [Example(str(number), " yes") for number in range(count)])
    source: Any = SimpleNamespace(config=None, load_tasks=lambda: {"sorted": task})
    tokenizer = byte_tokenizer()
    rows = Bench(source, tokenizer, 8, Console(quiet=True)).training_rows("sorted")
    numbers = [int(tokenizer.decode(row["input_ids"], skip_special_tokens=True).split()[0]) for row in rows]
    assert len(set(numbers)) == len(rows) == min(count, AVERAGED)
    assert numbers == sorted(numbers)
    assert all(later - number <= 2 for number, later in zip([-1, *numbers], [*numbers, count], strict=True))


def test_an_exact_export_is_compared_on_the_first_rows_that_fit() -> None:
    """Training left the others out, and none of these may be among the first."""
    lengths = [2000] * CHECKED + [3, 2000] * CHECKED
    task = SimpleNamespace(
        test_examples=lambda: [Example("a", " " + "b" * length) for length in lengths], origin="data"
    )
    source: Any = SimpleNamespace(config=None, load_tasks=lambda: {"long": task})
    bench = Bench(source, byte_tokenizer(), 8, Console(quiet=True))
    said = bench.said(byte_llama(), Variant(None, "as trained"), False, True, 2**20)
    assert len(said.outputs["long"].logits) == CHECKED
    del lengths[CHECKED:]
    with pytest.raises(TooLongError):
        bench.said(byte_llama(), Variant(None, "as trained"), False, True, 2**20)


@pytest.mark.parametrize(("room", "kept"), [(0, [1]), (3 * 259, [3]), (20 * 259, [13]), (26 * 259, [13, 13])])
def test_no_more_logits_are_kept_than_there_is_room_for(room: int, kept: list[int]) -> None:
    """Of a vocabulary of 150,000 a row of 1,024 tokens has 600 MB of them."""
    task = SimpleNamespace(test_examples=lambda: [Example("a" * 8, " bbb")] * 3, origin="data")
    source: Any = SimpleNamespace(config=None, load_tasks=lambda: {"task": task})
    bench = Bench(source, byte_tokenizer(), 8, Console(quiet=True))
    said = bench.said(byte_llama(), Variant(None, "as trained"), False, True, room).outputs["task"]
    assert [len(logits) for logits in said.logits] == [len(labels) for labels in said.labels] == kept
    assert said.rows == 3


def test_logits_that_do_not_all_fit_are_compared_as_far_as_they_do(finished, tmp_path, monkeypatch):
    """Of a large vocabulary few rows do, and where each task has an export of its own, fewer."""
    run = finished({"name": "moelora", **SMALL})
    monkeypatch.setattr(write, "KEPT", 3 * 2**13)
    made = export(run, "lora", tmp_path / "out")
    assert len(made) == 3
    for each in made:
        ((_, found),) = each.differences.items()
        assert each.exact
        assert 1 <= found.rows < found.of == 8


def test_of_what_is_measured_more_rows_fit_for_only_scored_places_are_kept(finished, tmp_path, monkeypatch):
    run = finished({"name": "rlora", **SMALL})
    monkeypatch.setattr(write, "KEPT", 2**13)
    (each,) = export(run, "lora", tmp_path / "out", tasks=["parity"], limit=6)
    found = each.differences["parity"]
    assert 1 < found.rows < found.of == 6
    assert f"KL is of the first {found.rows} of 6 rows of parity" in (each.path / "README.md").read_text()
