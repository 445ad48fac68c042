"""Paths on the command line that no file system has are told in one line, by every command."""

import pytest


@pytest.mark.parametrize(
    "typed",
    [
        ("eval", "{}"),
        ("chat", "{}"),
        ("predict", "{}", "--task", "t", "--file", "x", "--output", "y"),
        ("predict", "x", "--task", "t", "--file", "{}", "--output", "y"),
        ("predict", "x", "--task", "t", "--file", "y", "--output", "{}"),
        ("export", "{}", "--to", "lora", "--output", "y"),
        ("export", "x", "--to", "lora", "--output", "{}"),
        ("assemble", "a=x", "--output", "{}"),
        ("split", "{}", "--output", "y"),
        ("split", "x", "--output", "{}"),
        ("sparsify", "{}", "--output", "y"),
        ("analyze", "{}"),
        ("serve", "{}"),
    ],
)
def test_a_path_that_cannot_be_one_is_told(command, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    for path, words in (("~nobody-here/x", "no home folder of such a user"), ("n" * 300, "a name of 300 bytes")):
        code, out, err = command(*(part.format(path) for part in typed))
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
        assert words in err
    assert list(tmp_path.iterdir()) == []
