"""The table of docs/reliability.md is what the committed counts say."""

from counts import BEGIN, END, FILE, PAGE, printed, read, table


def test_the_table_is_printed_from_the_counts() -> None:
    shown = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown == printed(read(FILE)), "print it again: make reliability"


def test_parts_of_one_fault_are_added_up() -> None:
    tests = {"one": {"counts": {"a kill": {"well": 3, "refused": 1}}}, "two": {"counts": {"a kill": {"well": 1_000}}}}
    assert table(tests).splitlines()[2:] == ["| a kill | 1,004 | 1,003 well, 1 refused |"]
