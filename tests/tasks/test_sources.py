"""Rows come from files of every kind, compressed or not, from patterns, saved folders and the hub: always the same."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from loraweave.errors import UserError
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.data_task import DataTask
from loraweave.tasks.files import read_rows
from loraweave.tasks.recognise import recognise

ROWS: list[dict[str, Any]] = [
    {"question": f'Is "{i}", a number?', "context": "Yes,\nit is." if i % 2 else None, "answer": f"Yes, {i}"}
    for i in range(12)
]
TEMPLATES = {"prompt": "{{context or ''}}{{question}}\n", "completion": "answer"}
PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Rows as a file of the kind that its name says."""
    kind = path.name.partition(".")[2].partition(".")[0]
    table = pyarrow.Table.from_pylist(rows)
    if kind in ("jsonl", "ndjson"):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind == "json":
        content = json.dumps(rows, indent=1).encode()
    elif kind in ("csv", "tsv"):
        content = table.to_pandas().to_csv(sep="," if kind == "csv" else "\t", index=False).encode()
    else:
        sink = pyarrow.BufferOutputStream()
        if kind == "parquet":
            pyarrow.parquet.write_table(table, sink)
        else:
            with pyarrow.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        content = sink.getvalue().to_pybytes()
    path.write_bytes(PACKED.get(path.suffix, bytes)(content))
    return path


def examples(task: Task) -> list[Any]:
    found = task.training_examples() + task.validation_examples() + task.test_examples()
    return sorted(((example.prompt, example.completion) for example in found), key=str)


WANTED = sorted(((f"{row['context'] or ''}{row['question']}\n", row["answer"]) for row in ROWS), key=str)


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, packed: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"mine.{kind}{packed}")
    (task,) = load_tasks([{"task": path.name, **TEMPLATES}], tmp_path)
    assert (task.name, examples(task)) == ("mine", WANTED)
    upper = path.rename(tmp_path / path.name.upper())
    (task,) = load_tasks([{"task": upper.name, **TEMPLATES}], tmp_path)
    assert examples(task) == WANTED


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt"])
@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
def test_a_torn_or_wrongly_named_archive_is_one_line(kind: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{kind}{packed}"
    whole = PACKED[packed](json.dumps(ROWS).encode() * 40)
    for content in (whole[: len(whole) // 2], b"plain text", whole[:4]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"mine\.{kind}\{packed}: not a whole \{packed} file") as caught:
            read_rows(path)
        assert "\n" not in str(caught.value)


def test_archives_whose_package_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.compression import compr

    monkeypatch.delitem(compr, "zstd", raising=False)
    (tmp_path / "mine.jsonl.zst").write_bytes(b"x")
    with pytest.raises(UserError, match=r"reading \.zst needs the package zstandard"):
        read_rows(tmp_path / "mine.jsonl.zst")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_torn_arrow_files(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"mine.{kind}")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:7], b"hello", b"ARROW1hello" * 9, b"PAR1hello" * 9):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"mine\.{kind}: not an? (Parquet|Arrow) file") as caught:
            read_rows(path)
        assert "\n" not in str(caught.value)


def test_both_forms_of_arrow(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(tmp_path / "mine.arrow", table.schema) as file:
        file.write_table(table)
    assert read_rows(tmp_path / "mine.arrow").rows == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
def test_encodings(encoding: str, kind: str, tmp_path: Path) -> None:
    text = {
        "jsonl": '{"text": "schön"}\n{"text": "zwei"}\n',
        "json": '[{"text": "schön"}]',
        "csv": "text\r\nschön\r\n",
        "txt": "schön",
    }[kind]
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / f"mine.{kind}").write_bytes(mark + text.encode(encoding))
    if encoding == "cp1252":
        line = 2 if kind == "csv" else 1
        with pytest.raises(UserError, match=f"line {line}: not UTF-8 text; save the file as UTF-8"):
            read_rows(tmp_path / f"mine.{kind}")
    else:
        assert read_rows(tmp_path / f"mine.{kind}").rows[0] == {"text": "schön"}


@pytest.mark.parametrize(
    ("text", "rows", "places"),
    [
        ('{"data": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}], ["entry 1", "entry 2"]),
        ('{"version": "1", "rows":\n [{"a": 1}]}', [{"a": 1}], ["entry 1"]),
        ('\n{\n "a": 1,\n "b": [2]\n}\n', [{"a": 1, "b": [2]}], ["line 2"]),
        ('{"a": 1}', [{"a": 1}], ["line 1"]),
        ('{"messages": [{"role": "user"}]}', [{"messages": [{"role": "user"}]}], ["line 1"]),
        ('{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}], ["line 1", "line 3"]),
        ('[\n {"a": 1},\n {"a": 2}\n]', [{"a": 1}, {"a": 2}], ["entry 1", "entry 2"]),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_forms_of_json(text: str, rows: list[Any], places: list[str], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{suffix}"
    path.write_text(text)
    found = read_rows(path)
    assert found.rows == rows
    assert [found.place(i) for i in range(len(rows))] == [f"{path}, {place}" for place in places]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            r"several lists of rows \('train', 'test'\): save each as a file",
        ),
        ('{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}', "an object of columns; a row is wanted for each"),
        ('{"text": ["a", "b"], "label": [1, 0]}', "an object of columns"),
        ('{"a": 1, "a": 2}', "line 1: has the key 'a' twice in one object"),
        ('[{"a": {"b": 1, "b": 2}}]', "has the key 'b' twice"),
        ('{"a": 1}\n{"a": }\n', "line 2: not JSON"),
        ('{"a": }\n{"a": 1}\n', "line 1: not JSON"),
        ('{\n "a": 1\n "b": 2\n}', "line 3: not JSON"),
        ('{"a": 1} {"a": 2}', "line 1: not JSON .Extra data"),
        ("[]", "is empty"),
        ("3", "line 1: a JSON object is wanted, not int"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_no_rows(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=part):
        read_rows(tmp_path / "mine.json")


def test_tables_of_other_separators(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('text;label\n"a;b";1,5\nc;2\n')
    found = read_rows(tmp_path / "mine.csv")
    assert found.rows == [{"text": "a;b", "label": "1,5"}, {"text": "c", "label": "2"}]
    assert found.notes == ["the cells are separated by ';'"]
    (tmp_path / "one.csv").write_text("text\nyes; no\n")
    assert read_rows(tmp_path / "one.csv").rows == [{"text": "yes; no"}]


def test_a_cell_of_any_length_and_names_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f'text , label\n"{"long " * 50_000}\n",a\n')
    assert read_rows(tmp_path / "mine.csv").rows == [{"text": "long " * 50_000 + "\n", "label": "a"}]


def test_a_pattern_is_one_task(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"tickets-{number}.jsonl", ROWS[4 * number : 4 * number + 4])
    (task,) = load_tasks([{"task": "tickets-*.jsonl", **TEMPLATES}], tmp_path)
    assert (task.name, examples(task)) == ("tickets", WANTED)
    assert {Path(example.place.partition(",")[0]).name for example in task.training_examples()} == {
        f"tickets-{number}.jsonl" for number in range(3)
    }
    (named,) = load_tasks([{"task": f"{tmp_path}/*.jsonl", **TEMPLATES}], tmp_path)
    assert named.name == tmp_path.name
    write(tmp_path / "tickets[1].jsonl")  # a file whose name looks like a pattern
    (task,) = load_tasks([{"task": "tickets[1].jsonl", **TEMPLATES}], tmp_path)
    assert (task.name, examples(task)) == ("tickets[1]", WANTED)
    with pytest.raises(UserError, match="no file matches this pattern"):
        load_tasks(["other-*.jsonl"], tmp_path)
    (tmp_path / "tickets-notes.md").write_text("x")
    with pytest.raises(UserError, match=r"matches tickets-notes\.md, which is no data file"):
        load_tasks(["tickets-*"], tmp_path)


def labelled(count: int = 30, names: tuple[str, ...] = ("bad", "good"), start: int = 0) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    rows = {"text": [f"text {i}" for i in range(start, start + count)], "label": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_saved_folders_and_the_names_of_their_labels(tmp_path: Path) -> None:
    labelled().save_to_disk(tmp_path / "one")
    labelled().select(range(5, 20)).save_to_disk(tmp_path / "some")
    labelled().to_parquet(tmp_path / "mine.parquet")
    for name, count in (("one", 30), ("some", 15), ("mine.parquet", 30), ("./one", 30)):
        (task,) = load_tasks([name], tmp_path)
        assert isinstance(task, DataTask)
        found = examples(task)
        assert (len(found), task.name) == (count, name.removesuffix(".parquet").removeprefix("./"))
        assert ("text 7\nLabel: ", "good") in found
    looked = recognise("one", tmp_path)
    assert looked is not None
    assert (looked.kind, looked.labels, looked.rows) == ("Arrow folder", {"bad": 15, "good": 15}, 30)
    (renamed,) = load_tasks([{"task": "one", "choices": ["no", "yes"]}], tmp_path)
    assert ("text 7\nLabel: ", "yes") in examples(renamed)


def test_the_splits_of_a_saved_folder_are_its_own(tmp_path: Path) -> None:
    splits = {"train": labelled(), "dev": labelled(6, start=100), "test": labelled(4, start=200)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "all")
    (task,) = load_tasks(["all"], tmp_path)
    sizes = [len(s) for s in (task.training_examples(), task.validation_examples(), task.test_examples())]
    assert sizes == [30, 6, 4]
    (task,) = load_tasks([{"task": "all", "test": 0.2}], tmp_path)
    assert (len(task.training_examples()), len(task.test_examples())) == (24, 6)
    without = splits["test"].map(lambda row: {"label": -1})
    datasets.DatasetDict({**splits, "test": without}).save_to_disk(tmp_path / "secret")
    (task,) = load_tasks(["secret"], tmp_path)
    assert (len(task.training_examples()), len(task.test_examples())) == (27, 3)
    assert any("secret, test: not used, for no row has an answer" in note for note in task.notes)
    looked = recognise("secret", tmp_path)
    assert looked is not None
    assert (looked.problems, looked.splits) == ([], {"training": 30, "validation": 6})
    assert any("secret, test: not used, for no row has an answer" in note for note in looked.notes)
    some = splits["dev"].map(lambda row, n: {"text": row["text"] if n else None}, with_indices=True)
    datasets.DatasetDict({**splits, "dev": some}).save_to_disk(tmp_path / "holes")
    looked = recognise("holes", tmp_path)
    assert looked is not None
    assert [(problem.source, problem.number) for problem in looked.problems] == [(f"{tmp_path}/holes, dev", 1)]
    datasets.DatasetDict({"a": splits["train"], "b": splits["dev"]}).save_to_disk(tmp_path / "odd")
    with pytest.raises(UserError, match=r"odd: no split 'train' among 'a', 'b'; name one as .split."):
        load_tasks(["odd"], tmp_path)
    assert recognise("odd/a", tmp_path).rows == 30  # type: ignore[union-attr]


def test_splits_with_names_of_their_own(tmp_path: Path) -> None:
    splits = {"train_sft": labelled(), "test_sft": labelled(4, start=200), "train_gen": labelled(6, start=100)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "chats")
    for split, sizes, unread in (
        ("train_sft", (26, 3), "'test_sft' and 'train_gen'"),
        ({"train": "train_sft", "test": "test_sft"}, (29, 4), "'train_gen'"),
    ):
        (task,) = load_tasks([{"task": "chats", "split": split}], tmp_path)
        assert (len(task.training_examples()), len(task.test_examples())) == sizes
        assert f"{tmp_path}/chats, train_sft: splits that are not read: {unread}" in task.notes
    datasets.DatasetDict({"train": splits["train_gen"], "few": labelled(5), "test": splits["test_sft"]}).save_to_disk(
        tmp_path / "few"
    )
    (task,) = load_tasks([{"task": "few", "split": "few"}], tmp_path)
    assert (len(task.training_examples()), len(task.test_examples())) == (4, 4)
    for entry, message in (
        ({"split": "train_ppo"}, "chats: no split 'train_ppo' among 'train_sft', 'test_sft', 'train_gen'"),
        ({"split": {"test": "test_sft"}}, "chats: no split 'train' among .*; name one as 'split'"),
        ({"split": {"train": "train_sft", "test": "train_sft"}}, "each of its splits is named once"),
        ({"split": {"train": "train_sft", "test": "test_sft"}, "test": 0.2}, "'split' says it too"),
        ({"task": "chats/train_sft", "split": "train_sft"}, "'split' names train_sft, and it has no splits"),
    ):
        with pytest.raises(UserError, match=message):
            load_tasks([{"task": "chats", **entry}], tmp_path)


def test_folders_that_are_no_data_sets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.jsonl")
    with pytest.raises(UserError, match=r"a folder that `datasets` did not save .*pattern, such as data/\*\.jsonl"):
        load_tasks(["./data"], tmp_path)
    labelled().save_to_disk(tmp_path / "torn")
    (arrow,) = (tmp_path / "torn").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(UserError, match="torn: not a whole data set of `datasets`") as caught:
        load_tasks(["torn"], tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_there_and_is_no_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "survey.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"survey\.xlsx: a task file ends in one of .*\.csv, .*; save it as one"):
        load_tasks(["survey.xlsx"], tmp_path)


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, subset: str | None) -> datasets.DatasetDict:
        asked.append((name, subset))
        if subset is None:
            raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['de', 'en']")
        return datasets.DatasetDict({"train": labelled(), "validation": labelled(6, start=100)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (task,) = load_tasks([{"task": "owner/tickets", "subset": "en", "split": "train"}], tmp_path)
    assert (task.name, task.origin, asked) == ("tickets", "owner/tickets, en", [("owner/tickets", "en")])
    assert len(task.validation_examples()) == 6
    assert "owner/tickets, en, train, row " in task.training_examples()[0].place
    with pytest.raises(UserError, match=r"say which part of it, as 'subset': .*'de', 'en'") as caught:
        load_tasks(["owner/tickets"], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'owner/tickets' is no file here, and as a data set of the hub") as caught:
        load_tasks(["owner/tickets"], tmp_path)
    assert "\n" not in str(caught.value)


def test_what_features_say_is_never_run_or_opened(tmp_path: Path) -> None:
    """The schema of a Parquet file may name files and classes: it is read as values alone."""
    secret = tmp_path / "secret.txt"
    secret.write_text("x\ny\n")
    for feature in (
        {"names_file": str(secret), "_type": "ClassLabel"},
        {"names": 3, "_type": "ClassLabel"},
        {"_type": "Nowhere"},
        7,
    ):
        schema = {b"huggingface": json.dumps({"info": {"features": {"label": feature}}}).encode()}
        table = pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]}).replace_schema_metadata(schema)
        pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
        assert read_rows(tmp_path / "mine.parquet").label_names == {}


def test_plain_text_in_pieces(tmp_path: Path) -> None:
    paragraphs = ["word " * 30 + str(i) for i in range(40)] + ["x" * 5_000, "Satz. " * 900]
    text = "\ufeff\r\n\r\n" + "\r\n\r\n".join(paragraphs) + "\r\n"
    (tmp_path / "book.txt").write_bytes(text.encode())
    found = read_rows(tmp_path / "book.txt")
    lines = text.replace("\r\n", "\n").removeprefix("\ufeff").split("\n")
    for row, number in zip(found.rows, found.numbers, strict=True):
        assert (
            lines[number - 1].lstrip().startswith(row["text"].split("\n")[0][:20].lstrip()) or len(row["text"]) < 2_001
        )
        assert len(row["text"]) <= 2_000 or " " not in row["text"]
    joined = "".join(row["text"] for row in found.rows).replace("\n", "").replace(" ", "")
    assert joined == "".join(paragraphs).replace(" ", "")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match="is empty"):
        read_rows(tmp_path / "empty.txt")


@pytest.mark.parametrize("split_name", ["validation", "test"])
def test_a_file_named_to_be_held_out_of_which_no_row_can_be_used_is_an_error(split_name: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", [{"prompt": str(number), "completion": "b"} for number in range(40)])
    write(tmp_path / "held.jsonl", [{"prompt": "a", "completion": ""}])
    task = {"task": "mine.jsonl", "on_bad_row": "skip", split_name: "held.jsonl"}
    with pytest.raises(UserError, match=rf"held.jsonl: {split_name}: no row of it can be used; .*line 1.*empty"):
        load_tasks([task], tmp_path)


def test_a_pattern_over_several_splits_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet")
    with pytest.raises(UserError, match=r"write a pattern, such as data/train\*\.parquet"):
        load_tasks(["data/"], tmp_path)
    (task,) = load_tasks([{"task": "data/*.parquet", **TEMPLATES}], tmp_path)
    said = [note for note in task.notes if "called like another split" in note]
    assert len(said) == 1
    assert said[0].startswith(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    (task,) = load_tasks([{"task": "data/train*.parquet", **TEMPLATES}], tmp_path)
    assert not any("called like" in note for note in task.notes)


def test_lines_that_cannot_be_read_are_told_before_what_the_others_lack(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{i}", "label": "ab"[i % 2]}) for i in range(6)]
    (tmp_path / "mine.jsonl").write_text(",\n".join(lines) + "\n")  # an array without its brackets
    with pytest.raises(UserError, match=r"line 1: not JSON \(Extra data"):
        load_tasks(["mine.jsonl"], tmp_path)
    with pytest.raises(UserError, match="every row has the label 'b'"):
        load_tasks([{"task": "mine.jsonl", "on_bad_row": "skip"}], tmp_path)
