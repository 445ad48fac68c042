"""Bare texts and other tasks that a run is scored on without being trained for them."""

import gzip

import pytest
from tiny_project import write_project, write_run_file

from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.tasks.untrained import PASSAGE, SHIPPED, load_untrained


def test_a_text_is_passages_that_hold_all_of_it(tmp_path):
    text = "\ufeff" + "One sentence of many. " * 300 + "\n\n\nA last paragraph.\n"
    (tmp_path / "story.txt").write_text(text, encoding="utf-8")
    (story,) = load_untrained(["story.txt"], {}, tmp_path)
    passages = [example.completion for example in story.test_examples()]
    assert story.name == "story"
    assert not story.trainable
    assert 6 <= len(passages) <= 9
    assert all(len(passage) <= PASSAGE for passage in passages)
    assert " ".join(passages).split() == text.removeprefix("\ufeff").split()


def test_the_text_that_ships_has_its_name_and_is_plain(tmp_path):
    (shipped,) = load_untrained(["plain_english"], {}, tmp_path)
    assert shipped.name == "plain_english"
    assert len(shipped.test_examples()) >= 8
    assert SHIPPED["plain_english"].read_bytes().isascii()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("missing.txt", "no such file"),
        ("empty.txt", r"empty\.txt is empty"),
        ("nothing.txt", r"nothing\.txt is empty"),
        ("nothing.txt.gz", r"nothing\.txt\.gz is empty"),
        ("latin.txt", "not UTF-8 text"),
        ("few.jsonl", r"eval.forgetting: .*few.jsonl has too few rows to hold some out .* name a file as 'test'"),
        ({"task": "story.txt", "validation": 0.1}, "a text takes a 'name' and nothing else, not 'validation'"),
        ({"task": "story.txt", "name": "parity"}, r"eval.forgetting: 'parity' is what the run is trained on"),
        ("parity.yaml", r"eval.forgetting: 'parity' is what the run is trained on"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tmp_path, entry, words):
    config = RunConfig.load(write_run_file(write_project(tmp_path)))
    (tmp_path / "story.txt").write_text("Once.")
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "few.jsonl").write_text('{"prompt": "Note:", "completion": " x"}\n')
    (tmp_path / "nothing.txt").write_bytes(b"")
    (tmp_path / "nothing.txt.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    config.eval.forgetting = [entry]
    with pytest.raises(UserError, match=words):
        config.load_forgetting(config.load_tasks())


def test_a_run_file_says_where_an_entry_is_wrong(tmp_path):
    path = write_run_file(write_project(tmp_path))
    path.write_text(path.read_text() + "eval:\n  forgetting:\n    - {task: story.txt, nam: x}\n")
    with pytest.raises(UserError, match=r"run.yaml:\d+: eval.forgetting: unknown key 'nam'"):
        RunConfig.load(path)
