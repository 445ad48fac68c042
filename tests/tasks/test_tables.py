"""Tables of text: quotes that are part of a text, line ends inside of cells, and what programs put into a header."""

from pathlib import Path

import pytest

from loraweave.errors import UserError
from loraweave.tasks.files import read_rows
from loraweave.tasks.rows import FileRows


def read(folder: Path, content: str, name: str = "mine.tsv") -> FileRows:
    (folder / name).write_bytes(content.encode())
    return read_rows(folder / name)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_of_a_table_without_quoting_are_part_of_its_texts(end: str, tmp_path: Path) -> None:
    lines = ["text\tlabel", '"Tis good\tpos', 'so "so"\tneg', '"Oh," she said\tneg', 'an end"\tpos']
    found = read(tmp_path, end.join(lines) + end)
    assert [(row["text"], row["label"]) for row in found.rows] == [tuple(line.split("\t")) for line in lines[1:]]
    assert found.numbers == [2, 3, 4, 5]
    assert found.notes == ["every line is a row, so quotes are taken as they stand"]
    (line,) = read(tmp_path, '"text"\t"label"\n"said ""so"""\t"neg"\n').rows
    assert line == {"text": 'said "so"', "label": "neg"}


def test_line_ends_in_quoted_cells(tmp_path: Path) -> None:
    for name, mark in (("mine.tsv", "\t"), ("mine.csv", ",")):
        found = read(tmp_path, f'text{mark}label\r\n"one\r\ntwo\n\nthree"{mark}a\r\nx{mark}"b\nc"\r\n', name)
        assert found.rows == [{"text": "one\r\ntwo\n\nthree", "label": "a"}, {"text": "x", "label": "b\nc"}]
        assert (found.numbers, found.notes) == ([2, 6], [])


def test_a_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.csv, line 2: not a row of a table"):
        read(tmp_path, 'text,label\n"Tis good,pos\nso so,neg\n', "mine.csv")
    with pytest.raises(UserError, match=r"mine\.tsv, line 3: not a row of a table"):
        read(tmp_path, 'text\tlabel\nx\ty\n"Tis\tpos\nso\n', "mine.tsv")


def test_a_first_column_without_a_name_counts_the_rows(tmp_path: Path) -> None:
    found = read(tmp_path, ",text,label\n0,a,x\n1,b,y\n", "mine.csv")
    assert found.rows[1] == {"index": 1, "text": "b", "label": "y"}
    assert "is called 'index'" in found.notes[0]
    for header in (",index,text", ",text,", "text,,label"):
        with pytest.raises(UserError, match="line 1: the header has a column without a name"):
            read(tmp_path, f"{header}\n0,a,x\n", "mine.csv")


@pytest.mark.parametrize("header", ["text,label", "text,label,"])
def test_a_separator_at_the_end_of_lines_begins_no_cell(header: str, tmp_path: Path) -> None:
    found = read(tmp_path, f'{header}\r\n"one\ntwo, three",a,\r\nx,b,\r\n', "mine.csv")
    assert found.rows == [{"text": "one\ntwo, three", "label": "a"}, {"text": "x", "label": "b"}]
    assert found.notes == ["lines end in a separator with nothing behind it, which begins no cell"]
    with pytest.raises(
        UserError, match=r"line 3: 4 cells, and the header has 2|line 1: the header has a column without"
    ):
        read(tmp_path, f"{header}\nx,a,\nx, y,b,\n", "mine.csv")
    assert read(tmp_path, "text,label\nx,\ny,b\n", "mine.csv").rows[0] == {"text": "x", "label": None}


def test_quotes_behind_spaces_hold_cells(tmp_path: Path) -> None:
    found = read(tmp_path, 'label, text, n\n"a", "one, two", 1\nb, "so ""so""", 2\n', "mine.csv")
    assert found.rows == [{"label": "a", "text": "one, two", "n": 1}, {"label": "b", "text": 'so "so"', "n": 2}]
    assert found.notes == ["quotes stand behind spaces, and spaces behind separators are no part of the cells"]
    for text in ('"She said, ""so"", and went"', '"so, "" and so on"'):  # quotes of a text, in a cell that is quoted
        found = read(tmp_path, f"text,label\n{text}, x\n", "mine.csv")
        assert found.rows == [{"text": text[1:-1].replace('""', '"'), "label": " x"}]
        assert found.notes == []
    kept = read(tmp_path, 'text,label\nShe said, "so" and went\n', "mine.csv")
    assert kept.rows == [{"text": "She said", "label": ' "so" and went'}]


def test_columns_that_a_spreadsheet_keeps_empty_are_none(tmp_path: Path) -> None:
    found = read(tmp_path, "text,label,,\r\na,x,,\r\nb,y,,\r\n,,,\r\n", "mine.csv")
    assert found.rows == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert found.notes == ["lines end in a separator with nothing behind it, which begins no cell"]
    with pytest.raises(UserError, match="the header has a column without a name"):
        read(tmp_path, "text,label,,\na,x,,z\n", "mine.csv")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_headers_of_files_that_were_joined_are_no_rows(end: str, tmp_path: Path) -> None:
    found = read(tmp_path, end.join(["text,label", "a,0", "text,label", "b,1", "text,label", ""]), "mine.csv")
    assert found.rows == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    assert (found.numbers, found.notes) == ([2, 4], ["the header stands there again, 2 times: no row"])
    found = read(tmp_path, end.join(["\ufeff,text,label,", "0,a,b,", "\ufeff,text,label,", "0,c,d,"]), "mine.csv")
    assert [row["text"] for row in found.rows] == ["a", "c"]
    assert found.notes[-1] == "the header stands there again, once: no row"


@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_a_line_that_tells_excel_the_separator_is_no_header(mark: str, tmp_path: Path) -> None:
    found = read(tmp_path, f"sep={mark}\r\ntext{mark}label\r\na{mark}x\r\n", "mine.csv")
    assert (found.rows, found.numbers, found.notes) == ([{"text": "a", "label": "x"}], [3], [])
