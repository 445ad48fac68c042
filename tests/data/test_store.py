"""The token store: what comes out of it is what would be encoded anew, whoever else is at it and whatever is broken."""

import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tiny_tasks import make_tokenizer

from loraweave.data import prepare, store
from loraweave.data.encode import encode_all
from loraweave.data.mixture import MixtureConfig
from loraweave.data.rows import TaskTokens
from loraweave.data.store import TokenStore, cache_folder
from loraweave.errors import UserError
from loraweave.tasks.examples import Example

EXAMPLES = [Example("What is " + "very " * (i % 9) + f"{i}?", " Paris" * (i % 4 + 1)) for i in range(40)]
LONG, SHORT = 32, 4


def same(one: TaskTokens, other: TaskTokens) -> bool:
    arrays = all(np.array_equal(getattr(one, k), getattr(other, k)) for k in ("ids", "trained", "starts", "kept"))
    return arrays and (one.cut, one.dropped) == (other.cut, other.dropped)


def anew(tokenizer: Any, examples: list[Example] = EXAMPLES, max_length: int = LONG) -> TaskTokens:
    encoded = encode_all(examples, tokenizer, max_length)
    return TaskTokens.of(encoded.rows, encoded.kept, encoded.cut, encoded.dropped)


@pytest.fixture
def tokenizer(tokenizers: dict[str, Any]) -> Any:
    return tokenizers["start"]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the length limit each time that examples are really encoded."""
    found: list[int] = []

    def counted(examples: Any, tokenizer: Any, max_length: int) -> Any:
        found.append(max_length)
        return encode_all(examples, tokenizer, max_length)

    monkeypatch.setattr(store, "encode_all", counted)
    return found


def entries(folder: Path) -> list[Path]:
    return list(folder.glob("*.safetensors"))


def test_examples_are_encoded_once(tmp_path: Path, tokenizer: Any, encodings: list[int]) -> None:
    for max_length in (LONG, SHORT):
        for _ in range(3):
            found = TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, max_length)
            assert same(found, anew(tokenizer, max_length=max_length))
            rows = encode_all(EXAMPLES, tokenizer, max_length).rows
            assert found.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    assert encodings == [LONG, SHORT]
    assert found.dropped
    assert found.cut
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
def test_an_entry_is_mapped_and_not_read(tmp_path: Path, tokenizer: Any) -> None:
    found = TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG)
    assert str(entries(tmp_path)[0]) in Path("/proc/self/maps").read_text()
    assert len(found) == len(EXAMPLES)


def another_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages }}"


def another_end(tokenizer: Any) -> None:
    tokenizer.eos_token = "<pad>"


def another_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["Paris"])


def another_post_processor(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")


@pytest.mark.parametrize("change", [another_template, another_end, another_token, another_post_processor])
def test_another_tokenizer_has_entries_of_its_own(
    tmp_path: Path, encodings: list[int], change: Callable[[Any], None]
) -> None:
    tokenizer = make_tokenizer("start")
    TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG)
    TokenStore(make_tokenizer("start"), tmp_path).encoded(EXAMPLES, LONG)
    assert len(encodings) == 1
    change(tokenizer)
    assert same(TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG), anew(tokenizer))
    assert len(encodings) == 2


def test_other_examples_and_other_code_have_entries_of_their_own(
    tmp_path: Path, tokenizer: Any, encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for examples in (EXAMPLES, EXAMPLES[::-1], EXAMPLES[1:]):
        assert same(TokenStore(tokenizer, tmp_path).encoded(examples, LONG), anew(tokenizer, examples))
    monkeypatch.setattr(store, "_code", lambda: "other code")
    TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG)
    assert len(encodings) == 4


def test_a_template_with_the_date_is_another_every_day(monkeypatch: Any) -> None:
    def on(day: int, template: str) -> str | None:
        class Today(store.datetime.date):  # type: ignore[name-defined, misc]
            @classmethod
            def today(cls) -> Any:
                return cls(2024, 1, day)

        with monkeypatch.context() as patch:
            patch.setattr(store.datetime, "date", Today)
            tokenizer = make_tokenizer("chat")
            tokenizer.chat_template = template
            return TokenStore(tokenizer)._identity

    assert on(1, "{{ strftime_now('%d') }}") != on(2, "{{ strftime_now('%d') }}")
    assert on(1, "{{ messages }}") == on(2, "{{ messages }}") is not None


def test_a_tokenizer_with_code_of_its_own_is_not_stored(tmp_path: Path, tokenizer: Any) -> None:
    class Shouting(type(tokenizer)):  # type: ignore[misc]
        def encode(self, text: str, **options: Any) -> list[int]:
            return list(super().encode(text.upper(), **options))

    shouting = Shouting(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    assert same(TokenStore(shouting, tmp_path).encoded(EXAMPLES, LONG), anew(shouting))
    assert not same(anew(shouting), anew(tokenizer))
    assert not entries(tmp_path)


@pytest.mark.parametrize("at", ["header", "middle", "end", "cut", "empty"])
def test_a_broken_entry_is_made_anew(tmp_path: Path, tokenizer: Any, encodings: list[int], at: str) -> None:
    TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG)
    path = entries(tmp_path)[0]
    good = path.read_bytes()
    content = bytearray(good)
    place = {"header": 12, "middle": len(content) // 2, "end": -1}.get(at)
    if place is None:
        content = content[: 0 if at == "empty" else len(content) - 5]
    else:
        content[place] ^= 4
    path.write_bytes(content)
    assert same(TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG), anew(tokenizer))
    assert len(encodings) == 2
    assert path.read_bytes() == good


def test_every_flipped_bit_is_seen(tmp_path: Path, tokenizer: Any) -> None:
    """Unless it is one of the header's that nothing follows from, such as a blank."""
    TokenStore(tokenizer, tmp_path).encoded(EXAMPLES[:3], LONG)
    path = entries(tmp_path)[0]
    good = path.read_bytes()
    wanted = anew(tokenizer, EXAMPLES[:3])
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        found = store.read(path)
        assert found is None or same(found, wanted), place


def test_examples_that_cannot_be_encoded_leave_nothing(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="every answer is longer"):
        TokenStore(tokenizer, tmp_path).encoded([Example("a", " Paris" * 50)], LONG)
    assert not entries(tmp_path)
    assert len(TokenStore(tokenizer, tmp_path).encoded([], LONG)) == 0


def test_a_folder_that_cannot_be_written_to_costs_only_time(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a file").touch()
    found = TokenStore(tokenizer, tmp_path / "a file" / "tokens").encoded(EXAMPLES, LONG)
    assert same(found, anew(tokenizer))


def test_a_full_disk_costs_only_time(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert same(TokenStore(tokenizer, tmp_path).encoded(EXAMPLES, LONG), anew(tokenizer))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_threads_share_one_encoding(tmp_path: Path, tokenizer: Any, encodings: list[int]) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = [TokenStore(tokenizer, tmp_path) for _ in range(12)]
        found = list(pool.map(lambda one: one.encoded(EXAMPLES, LONG), stores))
    assert all(same(one, anew(tokenizer)) for one in found)
    assert encodings == [LONG]


def encode_in_a_process(folder: Path, tokenizer: Any, start: Any, results: Any) -> None:
    start.wait()
    calls: list[int] = []
    tokens = TokenStore(tokenizer, folder).encoded(EXAMPLES, LONG, calls.append)
    results.put((bool(calls), same(tokens, anew(tokenizer))))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_processes_share_one_encoding(tmp_path: Path, tokenizer: Any) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=encode_in_a_process, args=(tmp_path, tokenizer, start, results)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [right for _, right in found] == [True] * 4
    assert sum(encoded for encoded, _ in found) == 1


def test_where_entries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAWEAVE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LORAWEAVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/loraweave")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "loraweave"


def test_encoding_says_where_it_is(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at least every few seconds, here every hundredth of one."""
    from loraweave.heartbeat import Heartbeat
    from loraweave.tasks import load_tasks

    monkeypatch.setenv("LORAWEAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "Heartbeat", lambda say: Heartbeat(say, every=0.01))
    lines = "".join(json.dumps({"prompt": f"word {i}", "completion": " Paris"}) + "\n" for i in range(3000))
    (tmp_path / "words.jsonl").write_text(lines)
    tasks = load_tasks(["words.jsonl"], tmp_path)
    said = io.StringIO()
    prepare.load_data(tasks, tokenizer, LONG, MixtureConfig(), 0, Console(file=said))
    assert "words: " in said.getvalue()
    assert "examples encoded" in said.getvalue()
