"""A path that a person wrote: taken from where it starts, or refused in a line that says why."""

from pathlib import Path

import pytest

from loraweave.errors import UserError
from loraweave.paths import folder_names, user_path


def test_where_a_path_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("data/a.jsonl", "/project") == Path("/project/data/a.jsonl")
    assert user_path("/data/a.jsonl", "/project") == Path("/data/a.jsonl")
    assert user_path("~/a.jsonl", "/project") == Path("/home/me/a.jsonl")
    assert user_path(Path("a")) == Path("a")
    assert user_path("n" * 255).name == "n" * 255
    assert user_path("caf\udce9").name == "caf\udce9"  # a name of another encoding, as Python reads it from a folder


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("~nobody-of-this-name/x", "no home folder of such a user"),
        ("a\0b", "a zero byte"),
        ("\ud800", "half of a character"),
        ("n" * 256, "a name of 256 bytes, and a file system takes 255"),
        ("é" * 128, "a name of 256 bytes"),
        ("/".join(["n" * 200] * 30), "a path of 6,035 bytes"),
    ],
)
def test_what_cannot_be_a_path(written: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        user_path(written, "/here")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_folders_of_tasks_have_names_of_their_own_and_none_of_what_lies_aside() -> None:
    assert folder_names(["a", "A", "a b", "a_b", "..", "x.unfinished", "x.loraweave-old", "x.old"]) == [
        "a", "A-2", "a_b", "a_b-2", "task", "x_unfinished", "x_loraweave-old", "x.old",
    ]  # fmt: skip
