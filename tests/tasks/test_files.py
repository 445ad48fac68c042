"""Files as rows: a cell of a table is a number only where it prints as it was written, and an empty one is None."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraweave.errors import UserError
from loraweave.tasks.files import read_rows
from loraweave.tasks.tables import _typed


def test_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        '\ufeffword,count,code,share,note\r\nNA,7,007,0.5,null\r\n\r\n"two\nlines",,008,,\r\nlast,9,1,2.0,x\r\n'.encode()
    )
    rows = read_rows(tmp_path / "a.csv")
    assert rows.rows == [
        {"word": "NA", "count": 7, "code": "007", "share": 0.5, "note": "null"},
        {"word": "two\nlines", "count": None, "code": "008", "share": None, "note": None},
        {"word": "last", "count": 9, "code": "1", "share": 2.0, "note": "x"},
    ]
    assert [rows.place(index).rpartition(", ")[2] for index in range(3)] == ["line 2", "line 4", "line 6"]
    (tmp_path / "b.csv").write_text(f"number\n{2**63}\n1\n")
    assert read_rows(tmp_path / "b.csv").rows[0] == {"number": str(2**63)}
    line = '{"text": "ab", "spans": [{"text": "a"}, {"text": "b"}]}\n'
    (tmp_path / "one.jsonl").write_text(line)
    (tmp_path / "one.json").write_text(line)
    assert [len(read_rows(tmp_path / name).rows) for name in ("one.jsonl", "one.json")] == [1, 2]
    (tmp_path / "a.tsv").write_text("word\tcount\na,b\t7\n")
    assert read_rows(tmp_path / "a.tsv").rows == [{"word": "a,b", "count": 7}]


@given(st.lists(st.one_of(st.integers().map(str), st.floats().map(str), st.text()), max_size=5))
def test_a_cell_prints_as_it_was_written(cells: list[str]) -> None:
    assert ["" if value is None else str(value) for value in _typed(cells)] == cells


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "is empty"),
        ("a,b\n", "is empty"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells, and the header has 2"),
        ("a,b\n1\n", "line 2: 1 cells, and the header has 2"),
        ("a,a\n1,2\n", "line 1: the header has 'a' twice"),
        ("a,\n1,2\n", "line 1: the header has a column without a name"),
        ('a,b\n1,2\n"x,2\n', "line 3: not a row of a table"),
        ("a,b\n1,\0\n", "line 2: holds a zero byte"),
    ],
)
def test_what_is_no_table(content: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=part):
        read_rows(tmp_path / "a.csv")


def test_a_path_as_windows_writes_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=r"no such file: .*data\\rows\.jsonl, did you mean 'data/rows\.jsonl'\?"):
        read_rows(tmp_path / "data\\rows.jsonl")
