"""Whatever a file holds: no traceback, no hang, and no file beside the output folder.

Commands run in this process, on files of a small project that hypothesis has made bad. Half a minute of it here; ten
thousand inputs, in parts with seeds of their own, run with `make test-long` or `make reliability`.
"""

import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer
import yaml
from fuzz.mutations import as_json, as_yaml, mutated
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tiny_project import write_project, write_run_file
from transformers import TrainingArguments

from loraweave.cli.app import FAULT, run
from loraweave.estimate import dry_run as looking
from loraweave.pages.charts import Chart
from loraweave.runs.config import RunConfig
from loraweave.runs.methods import METHODS
from loraweave.tasks.harness import task_manager

SECONDS = 10
"""Of processor time, beyond what a command takes on the files as they were: figures alone are drawn for some."""
KEPT = ("results.json", "samples.jsonl", "evaluation.html")
"""What an evaluation leaves in its run's folder."""
QUICK = 12
PARTS, LONG = 17, 100  # of six kinds: 10,200 inputs

RUN_KEYS = (*RunConfig.model_fields, *METHODS["rlora"].fields(), "learning_rate", "temperature", "weights", "total")
TRAIN_KEYS = tuple(sorted(TrainingArguments.__dataclass_fields__))
TASK_KEYS = ("include", "class", "process_docs", "description", "gen_prefix", "fewshot_config", "repeats", "use_prompt")

DATA = {
    "labels.jsonl": [b'{"text": "a", "label": "x"}', b'{"text": "b", "label": "y"}', b'{"text": "c", "label": "x"}'],
    "shared.jsonl": [b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'] * 3,
    "alpaca.json": [b'[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "output": "d"}]'],
    "table.csv": [b"question,answer,id", b'"a, ""b""",c,1', b'"two\r\nlines",d,2', b"e,f,"],
    "table.tsv": [b"text\tlabel", b"a\tx", b"b\ty", b"c\tx"],
    "book.txt": [b"A line.", b"", b"Another, of another paragraph."],
}
"""Small files of each format."""
ODD = (b'"', b",", b"\t\t", b";;", b"\xff", b"\0", "ü".encode("utf-16"), b"a,b,c,d", b'"a""', b"\xef\xbb\xbfa")
"""Lines that a table or a text does not expect."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a finished run, an R-LoRA, without the hashes by which it would be refused unread."""
    folder = write_project(tmp_path_factory.mktemp("good") / "project")
    write_run_file(folder)
    done = ["train", str(folder / "run.yaml"), "--set", "method=rlora", "--set", "train.max_steps=1"]
    assert run([*done, "--output", str(folder / "trained")]) == 0
    shutil.rmtree(folder / "trained" / "checkpoints")
    summary = folder / "trained" / "summary.json"
    kept = {key: value for key, value in json.loads(summary.read_text()).items() if key != "trained_files"}
    summary.write_text(json.dumps(kept))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _once() -> Iterator[None]:
    """What takes most of the time and follows from its arguments alone is done once for each of them."""
    task_manager()  # lm-eval's list of its tasks: ten seconds for the first who names one
    gc.collect()
    gc.freeze()  # the libraries, which every later collection would go through again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        patch.setattr(looking, "estimate", estimated_once(looking.estimate))
        patch.setattr(Chart, "save", drawn_once(Chart.save))
        yield
    gc.unfreeze()


def estimated_once(estimate: Callable[..., Any]) -> Callable[..., Any]:
    """The estimate of memory, which keeps what it came to."""
    known: dict[str, Any] = {}

    def asked(config: Any, *others: Any) -> Any:
        key = repr((config.to_dict(), *others))
        if key not in known:
            known[key] = estimate(config, *others)
        return known[key]

    return asked


def drawn_once(save: Callable[[Chart, Path], None]) -> Callable[[Chart, Path], None]:
    """The drawing of a chart, which keeps its panels: one of the same numbers is the same."""
    known: dict[str, dict[int, Any]] = {}

    def asked(chart: Chart, folder: Path) -> None:
        panels = [*chart.panels, *chart.more]
        looks = [(panel.title, panel.width, panel.height) for panel in panels]
        key = repr((chart.name, chart.title, chart.note, chart.table.csv, looks, chart.series, chart.scale))
        if key not in known:
            save(chart, folder)
            known[key] = {place: chart.inline(panel) for place, panel in enumerate(panels)}
        chart._inline.update({panel: known[key][place] for place, panel in enumerate(panels)})

    return asked


class Slow(BaseException):
    """A command that did not end in time."""


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Processor time counts, for other work on the machine says nothing; and ten minutes for one that waits."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Slow(f"not over after {seconds:.0f} seconds")

    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(600)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def survives(good: Path, folder: Path, file: str, content: bytes, *arguments: str, usual: bytes | None = None) -> str:
    """Run a command on a copy of the project with one file of other content, which may take as long as with the file as
    it was, or with `usual` in its place, and some seconds; says how it ended."""
    key = (arguments[0], usual)
    if key not in _usual:
        project = fresh(good, folder)
        if usual is not None:
            (project / file).write_bytes(usual)
        started = time.process_time()
        assert typed(project, 600, *arguments)[0] == 0
        _usual[key] = time.process_time() - started
    (fresh(good, folder) / file).write_bytes(content)
    before = everything(folder)
    code, told = typed(folder / "project", _usual[key] + SECONDS, *arguments)
    assert code is not None, f"{told}: {content!r}"
    assert code != FAULT, told
    assert "Traceback" not in told
    assert code in (0, 1, 2)
    if code == 2:
        lines = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert len(lines[0]) < 4100
    beside = {path for path in everything(folder) - before if path.parts[:2] != ("project", "out")}
    assert beside <= {Path("project/trained") / name for name in KEPT}, beside
    return "refused in one line" if code == 2 else "done"


_usual: dict[tuple[str, bytes | None], float] = {}


def fresh(good: Path, folder: Path) -> Path:
    """A copy of the project in a folder that was emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(good, folder / "project")


def typed(project: Path, seconds: float, *arguments: str) -> tuple[int | None, str]:
    """Run a command in the project: its exit code, None where it took too long, and what it said."""
    out, err, here = StringIO(), StringIO(), Path.cwd()
    os.chdir(project)
    try:
        with redirect_stdout(out), redirect_stderr(err), in_time(seconds):
            return run([*arguments]), err.getvalue()
    except Slow as slow:
        return None, str(slow)
    finally:
        os.chdir(here)


def everything(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def dry_run(draw: st.DataObject, good: Path, folder: Path) -> str:
    """A run file, looked at."""
    keys = draw.draw(st.sampled_from([RUN_KEYS, TRAIN_KEYS]))
    content = draw.draw(mutated((good / "run.yaml").read_bytes(), yaml.safe_load, as_yaml, keys))
    return survives(good, folder, "run.yaml", content, "train", "run.yaml", "--dry-run", "--output", "out")


def task_file(draw: st.DataObject, good: Path, folder: Path) -> str:
    """A task in lm-eval's format."""
    file = draw.draw(st.sampled_from(["parity.yaml", "double.yaml"]))
    content = draw.draw(mutated((good / file).read_bytes(), yaml.safe_load, as_yaml, TASK_KEYS))
    return survives(good, folder, file, content, "tasks", "preview", file, "--model", "base")


def data_file(draw: st.DataObject, good: Path, folder: Path) -> str:
    """Rows to learn from."""
    file = draw.draw(st.sampled_from(["notes.jsonl", "parity_train.jsonl", "double_test.jsonl", *DATA]))
    first, *rest = DATA[file] if file in DATA else (good / file).read_bytes().splitlines()
    if file.endswith((".jsonl", ".json")):
        content = draw.draw(mutated(first, json.loads, as_json, ("messages", "tools", "weight", "prompt", "from")))
    else:
        content = draw.draw(st.one_of(st.just(first), st.binary(max_size=40), st.sampled_from(ODD)))
        rest = [draw.draw(st.sampled_from([line, *ODD, b"", line[:-2]])) for line in rest]
    asked = file if file in ("notes.jsonl", *DATA) else f"{file.partition('_')[0]}.yaml"
    return survives(good, folder, file, b"\n".join([content, *rest]), "tasks", "preview", asked, "--model", "base")


def adapter(draw: st.DataObject, good: Path, folder: Path) -> str:
    """An adapter's configuration or tensors, evaluated or analysed."""
    file = draw.draw(st.sampled_from(["adapter_config.json", "adapter_config.json", "adapter_model.safetensors"]))
    content = (good / "trained" / "adapter" / file).read_bytes()
    keys = tuple(METHODS["rlora"].fields())
    tensors = file.endswith("safetensors")
    made = draw.draw(_tensors(content) if tensors else mutated(content, json.loads, as_json, keys))
    asked = draw.draw(st.sampled_from([("eval", "trained", "--limit", "1"), ("analyze", "trained", "--output", "out")]))
    return survives(good, folder, f"trained/adapter/{file}", made, *asked)


def _tensors(content: bytes) -> st.SearchStrategy[bytes]:
    """The header is what can be got wrong; the numbers behind it are only numbers."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = mutated(content[8:size], json.loads, as_json)
    return header.map(lambda made: len(made).to_bytes(8, "little") + made + content[size:]) | st.integers(
        0, len(content)
    ).map(lambda end: content[:end])


def record(draw: st.DataObject, good: Path, folder: Path) -> str:
    """What a run wrote about itself."""
    file = draw.draw(st.sampled_from(["summary.json", "base.json", "gradients.json", "routing.json", "run.yaml"]))
    content = (good / "trained" / file).read_bytes()
    read, write = (yaml.safe_load, as_yaml) if file == "run.yaml" else (json.loads, as_json)
    made = draw.draw(mutated(content, read, write))
    asked = draw.draw(st.sampled_from([("eval", "trained", "--limit", "1"), ("analyze", "trained", "--output", "out")]))
    return survives(good, folder, f"trained/{file}", made, *asked)


def base(draw: st.DataObject, good: Path, folder: Path) -> str:
    """A base model's files."""
    file = draw.draw(st.sampled_from(["config.json", "tokenizer_config.json", "tokenizer.json"]))
    content = draw.draw(
        mutated((good / "base" / file).read_bytes(), json.loads, as_json, ("chat_template", "auto_map"))
    )
    asked = ("train", "run.yaml", "--dry-run", "--output", "out")
    deep = file == "config.json" and b'"num_hidden_layers": 2' not in content
    return survives(good, folder, f"base/{file}", content, *asked, usual=_layers_unsaid(good) if deep else None)


def _layers_unsaid(good: Path) -> bytes:
    """The base's configuration without its number of layers: Llama's own is 32, and to look at those takes longer."""
    content = json.loads((good / "base" / "config.json").read_bytes())
    return as_json({key: value for key, value in content.items() if key != "num_hidden_layers"})


KINDS = {
    "run file": dry_run,
    "task file": task_file,
    "data file": data_file,
    "adapter's file": adapter,
    "run's record": record,
    "base's file": base,
}


def search(kind: str, good: Path, folder: Path, examples: int, number: int, count: Callable[[str, str], None]) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller example is not worth the minutes that it takes to find it
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(draw: st.DataObject) -> None:
        count(f"{kind}, values or bytes changed", KINDS[kind](draw, good, folder))

    one()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_file_holds(kind: str, good: Path, tmp_path: Path, count: Callable[[str, str], None]) -> None:
    search(kind, good, tmp_path / "fuzz", QUICK, 0, count)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, PARTS + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_files(
    kind: str, part: int, good: Path, tmp_path: Path, count: Callable[[str, str], None]
) -> None:
    search(kind, good, tmp_path / "fuzz", LONG, part, count)
