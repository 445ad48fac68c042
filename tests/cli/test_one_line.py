"""Inputs that once ended in a traceback: each is told in one line, with file, key and value."""

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from loraweave.cli import app

NEST = "[" * 3000 + "]" * 3000
BOMB = "&a [z,z,z,z,z,z,z,z,z]\n" + "".join(
    f"{key}: &{letter} [{','.join(['*' + below] * 9)}]\n"
    for key, below, letter in zip(
        ("data_dir", "output", "chat_template", "seed", "trust_code", "base_dir"), "abcdef", "bcdefg", strict=True
    )
)


@pytest.fixture
def own(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which the commands are typed; endless expressions are not long waited for."""
    monkeypatch.setattr("loraweave.adapters.fields.PATIENCE", 1.0)
    shutil.copytree(project, folder := tmp_path / "own", ignore=shutil.ignore_patterns("trained"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def compared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of the project."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    options = ["--output", str(folder), "--set", "train.max_steps=1", "--set", "eval.limit=1"]
    assert app.run(["compare", str(project / "run.yaml"), "--methods", "lora", *options]) == 0
    return folder


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert len(err) < 1000
    for part in ("error: ", *parts):
        assert part in err


@pytest.mark.parametrize(
    ("added", "parts"),
    [
        ("? [a]\n: 1\n", ["run.yaml:9", "a key is a word or a number, not ['a']"]),
        ("eval: [2026-13-45]\n", ["run.yaml:9", "'2026-13-45' cannot be read as timestamp"]),
        ("seed: !!int x\n", ["run.yaml:9", "'x' cannot be read as int"]),
        ("seed: !!bool x\n", ["run.yaml:9", "'x' cannot be read as bool"]),
        (f"seed: {'9' * 6000}\n", ["run.yaml:9", "99999", "cannot be read as int"]),
        (f"eval: {NEST}\n", ["run.yaml", "nested too deeply"]),
        (f"eval: {BOMB}", ["run.yaml", "its aliases (*name) stand for millions of values"]),
        ("seed: &a [*a]\n", ["run.yaml", "its aliases (*name) stand for millions of values"]),
        ("data_dir: \x01\n", ["run.yaml", "#x0001"]),
        ("base_dir: 3\n", ["run.yaml:9: base_dir", "got 3"]),
        ("base_dir:\n", ["run.yaml:9: base_dir", "got None"]),
        ("base_dir: ~nobody-here/x\n", ["run.yaml:9: base_dir: '~nobody-here/x'", "no home folder"]),
        ("output: ~nobody-here/x\n", ["run.yaml:9: output: '~nobody-here/x'", "no home folder"]),
        ('output: "a\\0b"\n', ["run.yaml:9: output: 'a\\x00b'", "a zero byte"]),
        ('data_dir: "a\\0b"\n', ["run.yaml:9: data_dir: 'a\\x00b'", "a zero byte"]),
        ('data_dir: "\\ud800"\n', ["run.yaml:9: data_dir", "half of a character"]),
        ('eval: {forgetting: ["\\ud800"]}\n', ["run.yaml:9: eval.forgetting.0: '\\ud800' holds half of a character"]),
        (f"data_dir: {'n' * 300}\n", ["run.yaml:9: data_dir", "a name of 300 bytes"]),
        (f"output: {'n' * 300}\n", ["run.yaml:9: output", "a name of 300 bytes"]),
    ],
)
def test_lines_of_a_run_file(command, own, added: str, parts: list[str]) -> None:
    text = (own / "run.yaml").read_text()
    assert len(text.splitlines()) == 8
    (own / "run.yaml").write_text(text + added)
    before = sorted(own.iterdir())
    refused(command("train", "run.yaml"), *parts)
    assert sorted(own.iterdir()) == before


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("a=? [a]", ["--set 'a=? [a]'", "a key is a word or a number"]),
        (f"eval={NEST}", ["--set 'eval=[[", "nested too deeply"]),
        (f"seed={'9' * 6000}", ["--set 'seed=999", "cannot be read as int"]),
        ("seed=2026-13-45", ["--set 'seed=2026-13-45'", "month must be in 1..12"]),
        ("model=~nobody-here/x", ["--set 'model=~nobody-here/x': model", "no home folder"]),
        ("output=~nobody-here/x", ["--set 'output=~nobody-here/x': output", "no home folder"]),
        (f"model={'n' * 300}", ["--set 'model=nnn", "a name of 300 bytes"]),
        ('train={"\\ud800": 1}', ["train: '\\ud800' holds half of a character"]),
        ("method={name: []}", ["--set 'method={name: []}'", "unknown method []"]),
    ],
)
def test_settings_on_the_command_line(command, own, override: str, parts: list[str]) -> None:
    refused(command("train", "run.yaml", "--set", override), *parts)


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("~nobody-here/x", ["'~nobody-here/x'", "no home folder"]),
        ("~nobody-here/x.yaml", ["no home folder"]),
        ("~nobody-here/x.jsonl", ["no home folder"]),
        (f"{'n' * 300}.yaml", ["a name of 305 bytes"]),
        (f"{'n' * 300}.jsonl", ["a name of 306 bytes"]),
        ('"\\ud800.jsonl"', ["run.yaml:4: tasks.0: '\\ud800.jsonl' holds half of a character"]),
        ('{task: parity.yaml, name: "\\ud800"}', ["run.yaml:4", "tasks.0.name: '\\ud800' holds half of a character"]),
        ('{task: parity.yaml, name: "a\\nb"}', ["run.yaml:4", "'a\\nb' cannot be a name", "one line"]),
        ("{task: parity.yaml, name: ..}", ["run.yaml:4", "'..' cannot be a name"]),
        (f"{{task: parity.yaml, name: {'n' * 300}}}", ["run.yaml:4", "200 bytes at most"]),
        ("{task: parity.yaml, data_dir: ~nobody-here/x}", ["no home folder"]),
        ('{task: notes.jsonl, name: new, validation: "a\\0.jsonl"}', ["a zero byte"]),
        (f"{{task: notes.jsonl, name: new, test: {'n' * 300}.jsonl}}", ["a name of 306 bytes"]),
    ],
)
def test_tasks_of_a_run_file(command, own, entry: str, parts: list[str]) -> None:
    text = (own / "run.yaml").read_text()
    (own / "run.yaml").write_text(text.replace('"parity.yaml"', entry))
    refused(command("train", "run.yaml", "--dry-run"), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "n" * 300], ["a name of 300 bytes"]),
        (["train", "run.yaml", "--output", "n" * 300], ["a name of 300 bytes"]),
        (["train", "run.yaml", "--output", "~nobody-here/x"], ["no home folder"]),
        (["compare", "run.yaml", "--methods", "lora", "--output", "n" * 300], ["a name of 300 bytes"]),
        (["eval", "n" * 300], ["a name of 300 bytes"]),
        (["analyze", "n" * 300], ["a name of 300 bytes"]),
        (["analyze", ".", "--full", "~nobody-here/x"], ["no home folder"]),
        (["tasks", "preview", "parity.yaml", "--model", "~nobody-here/x"], ["no home folder"]),
        (["tasks", "show", "n" * 300 + ".yaml"], ["a name of 305 bytes"]),
        (["train", "caf\udce9.yaml"], ["'caf\\udce9.yaml' is not UTF-8 text"]),
    ],
)
def test_paths_on_the_command_line(command, own, arguments: list[str], parts: list[str]) -> None:
    before = sorted(own.iterdir())
    refused(command(*arguments), *parts)
    assert sorted(own.iterdir()) == before


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.num_train_epochs=.inf", ["--set 'train.num_train_epochs=.inf'", "a finite number"]),
        ("train.num_train_epochs=1e300", ["train.num_train_epochs must be above 0, at most a billion"]),
        ("train.learning_rate=.nan", ["train.learning_rate must be a finite number"]),
        (f"train.max_steps={'9' * 30}", ["train.max_steps must be below 2,147,483,648", "got 9999"]),
        (f"train.max_length={10**12}", ["train.max_length must be below 2,147,483,648"]),
        (f"train.max_length={10**9}", ["train.max_length must be from 1 to 1,048,576"]),
        (f"train.per_device_train_batch_size={10**9}", ["train.per_device_train_batch_size must be from 1"]),
        (f"mixture.total={10**12}", ["an epoch of 1,000,000,000,000 examples would draw", "lower total"]),
        (f"mixture={{strategy: equal, by: tokens, total: {10**13}}}", ["10,000,000,000,000 tokens would draw"]),
        (f"method={{name: rlora, num_heads: {10**8}}}", ["method rlora: num_heads", "10000"]),
        (f"method={{name: moelora, task_embedding_dim: {10**10}}}", ["method moelora: task_embedding_dim"]),
        (f"method={{name: lora, r: {10**11}}}", ["method lora: r", "65536"]),
        ("method.rank_pattern=- a", ["method lora: rank_pattern", "got ['a']"]),
        ("method={name: rlora, alpha_pattern: x}", ["method rlora: alpha_pattern", "got 'x'"]),
        ("method={name: rlora, rank_pattern: {3: 3}}", ["its keys must be names, got {3: 3}"]),
        ("method={name: lora, lora_dropout: x}", ["method lora: lora_dropout", "got 'x'"]),
        ("method={name: lora, lora_dropout: -1}", ["method lora: lora_dropout", "got -1"]),
        ("method={name: mtllora, temperature: x}", ["method mtllora: temperature", "got 'x'"]),
        ("method={name: rlora, temperature: .nan}", ["method rlora: temperature", "got nan"]),
        ("method={name: dora, lora_alpha: []}", ["method dora: lora_alpha", "got []"]),
        ("method={name: lora, bias: 5}", ["method lora: bias", "got 5"]),
        ("method={name: lora, target_modules: [5]}", ["method lora: target_modules", "got [5]"]),
        ("method={name: lora, target_modules: '('}", ["method lora: '('", "not a regular expression"]),
        ("method={name: rlora, exclude_modules: '(.*.*)*x'}", ["'(.*.*)*x' does not come to an end"]),
        ("method={name: rlora, rank_pattern: {'(': 3}}", ["method rlora: ", "not a regular expression"]),
        ("method={name: rlora, modules_to_save: [nothing]}", ["modules_to_save names 'nothing'"]),
        ("method={name: lora, megatron_config: {a: 1}}", ["method lora: megatron_config cannot be set"]),
    ],
)
def test_values_of_settings(command, own, override: str, parts: list[str]) -> None:
    code, _, err = command("train", "run.yaml", "--dry-run", "--set", override)
    assert (code, len(err.splitlines())) == (2, 1), err
    for part in parts:
        assert part in err


DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("notes.jsonl", f'{{"prompt": {DEEP}}}\n', ["notes.jsonl, line 1: not JSON (nested too deeply)"]),
        ("notes.jsonl", f'\n{{"prompt": {LONG}}}\n', ["notes.jsonl, line 2: not JSON (Exceeds the limit"]),
        ("notes.jsonl", '{"prompt": "a", "completion": NaN}\n', ["line 1: not JSON (NaN is no number of JSON"]),
        ("parity_train.jsonl", '{"number": -Infinity, "label": "odd"}\n', ["line 1: not JSON (-Infinity is no number"]),
        ("notes.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": \n', ["line 2: not JSON (Expecting value"]),
    ],
)
def test_data_files(command, own, file: str, content: str, parts: list[str]) -> None:
    (own / file).write_text(content)
    refused(command("train", "run.yaml", "--output", "out"), *parts)


@pytest.mark.parametrize("content", [DEEP, f"[{LONG}]", '[{"prompt": NaN}]'])
def test_a_json_array(command, own, content: str) -> None:
    (own / "notes.json").write_text(f"[{content}]")
    refused(command("tasks", "preview", "notes.json"), "notes.json: not JSON (")


@pytest.mark.parametrize("key", ["aggregation: nothing", "higher_is_better: []"])
def test_a_metric_that_could_not_be_worked_out_is_refused_before_training(command, own, key: str) -> None:
    text = (own / "parity.yaml").read_text()
    (own / "parity.yaml").write_text(text.replace("- metric: acc", f"- metric: acc\n    {key}"))
    refused(command("train", "run.yaml", "--output", "out"), "parity.yaml", "'acc'", key.partition(":")[0])


CONFIGURED = [
    ("config.json", {"vocab_size": -1}, ["base: vocab_size is -1 in config.json"]),
    ("config.json", {"vocab_size": 10**12}, ["base: vocab_size is 1,000,000,000,000"]),
    ("config.json", {"vocab_size": "x"}, ["base: the model folder cannot be loaded", "vocab_size"]),
    ("config.json", {"num_attention_heads": 0}, ["base: num_attention_heads is 0"]),
    ("config.json", {"num_hidden_layers": 10**9}, ["base: num_hidden_layers is 1,000,000,000"]),
    ("config.json", {"num_attention_heads": 3}, ["base: the model folder cannot be loaded", "validate_architecture"]),
    ("config.json", {"rope_parameters": "x"}, ["base: the model folder cannot be loaded", "rope_parameters"]),
    ("config.json", {"hidden_act": "x"}, ["base: the model folder cannot be loaded: one of its files lacks 'x'"]),
    ("config.json", {"model_type": "t5"}, ["base: the model folder cannot be loaded", "T5Config"]),
    ("tokenizer_config.json", {"model_max_length": "x"}, ["base: model_max_length", "got 'x'"]),
    ("tokenizer_config.json", {"pad_token": 3}, ["base: the model folder cannot be loaded: TypeError: Special token"]),
    ("tokenizer_config.json", {"pad_token": "<new>"}, ["the tokenizer has 260 tokens", "embedding 259 rows"]),
    ("tokenizer_config.json", None, ["base: the model folder cannot be loaded", "'list' object"]),
    ("tokenizer.json", None, ["base: the model folder cannot be loaded"]),
    ("config.json", None, ["base/config.json: cannot be read: a JSON object is wanted, not list"]),
]


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(("file", "changed", "parts"), CONFIGURED)
def test_files_of_a_base(command, own, dry: bool, file: str, changed: dict | None, parts: list[str]) -> None:
    """None: the file holds an empty list."""
    path = own / "base" / file
    path.write_text(json.dumps([] if changed is None else json.loads(path.read_text()) | changed))
    refused(command("train", "run.yaml", "--output", "out", *(["--dry-run"] if dry else [])), *parts)


@pytest.mark.parametrize(
    ("file", "content", "asked", "parts"),
    [
        ("base.json", "{}", "analyze", ["base.json: not as this version writes it: name: Field required"]),
        ("base.json", '{"name": ""}', "eval", ["base.json", "name: String should have at least 1 character, got ''"]),
        ("base.json", '{"name": 3}', "analyze", ["name: Input should be a valid string, got 3"]),
        ("base.json", '{"name": "x", "fingerprint": []}', "eval", ["fingerprint: Input should be a valid string"]),
        ("gradients.json", "{}", "analyze", ["gradients.json: not as this version writes it: tasks: Field required"]),
        ("gradients.json", '{"tasks": 3, "steps": []}', "analyze", ["tasks: Input should be a valid array, got 3"]),
        ("metrics.jsonl", '{"loss": 1}\n', "analyze", ["metrics.jsonl, line 1: a number is wanted for 'step'"]),
        ("metrics.jsonl", '{"step": 1, "loss/x": "y"}\n', "analyze", ["line 1", "loss/x: Input should", "got 'y'"]),
        ("summary.json", '{"adapter": "../x", "method": "lora", "mixture": []}', "eval", ["adapter: Input should be"]),
        ("summary.json", '{"adapter": "adapter", "method": [], "mixture": []}', "analyze", ["method: Input should be"]),
        ("summary.json", '{"adapter": "adapter", "method": "lora", "mixture": 3}', "analyze", ["mixture: Input"]),
        ("results.json", DEEP, "eval", ["results.json: cannot be read"]),
        ("results.json", '{"evaluations": [3]}', "eval", ["results.json: not as this version writes it: evaluations"]),
        ("results.json", '{"evaluations": [{}]}', "eval", ["evaluations.0.settings: Field required"]),
    ],
)
def test_files_of_a_run(command, trained, tmp_path, file: str, content: str, asked: str, parts: list[str]) -> None:
    (trained / file).write_text(content)
    extra = ["--limit", 1] if asked == "eval" else ["--output", tmp_path / "out"]
    refused(command(asked, trained, *extra), file, *parts)


@pytest.mark.parametrize(
    ("place", "value", "parts"),
    [
        (["runs"], None, ["runs: Input should be a valid array, got None"]),
        (["runs", 0], None, ["runs.0: Input should be"]),
        (["runs", 0, "scores"], None, ["runs.0.scores: Input should be"]),
        (["runs", 1, "scores", "parity", "score"], "x", ["runs.1.scores.parity.score: Input should be"]),
        (["settings"], [], ["settings: Input should be"]),
        (["searches"], {}, ["searches: Input should be a valid array"]),
    ],
)
def test_results_of_a_comparison(command, own, compared, place: list, value: object, parts: list[str]) -> None:
    shutil.copytree(compared, own / "out")
    content = json.loads((own / "out" / "results.json").read_text())
    at = content
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (own / "out" / "results.json").write_text(json.dumps(content))
    result = command("compare", "run.yaml", "--methods", "lora", "--output", "out", "--resume")
    refused(result, "results.json: not as this version writes it", *parts)


def test_results_that_hold_next_to_nothing(command, own) -> None:
    from loraweave.comparison.records import FORMAT

    (own / "out").mkdir()
    (own / "out" / "results.json").write_text(json.dumps({"format": FORMAT}))
    result = command("compare", "run.yaml", "--methods", "lora", "--output", "out", "--resume")
    refused(result, "results.json: not as this version writes it: created: Field required")


TEMPLATES = [
    ("{{ 1/0 }}", ["ZeroDivisionError"]),
    ("{% for i in range(10**9) %}x{% endfor %}", ["the sandbox that templates run in refuses it", "100,000"]),
    ([{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "x"}], ["tool_use", "rag"]),
]


@pytest.mark.parametrize(("template", "parts"), TEMPLATES)
def test_chat_templates(command, own, template: object, parts: list[str]) -> None:
    path = own / "base" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    asked = ("train", "run.yaml", "--set", "chat_template=true", "--output", "out")
    refused(command(*asked), "chat template", *parts)
    refused(command("tasks", "preview", "notes.jsonl", "--model", "base", "--chat-template"), "chat template", *parts)


def test_a_tokenizer_larger_than_the_embedding(command, own) -> None:
    model = LlamaForCausalLM.from_pretrained(own / "base")
    model.resize_token_embeddings(100)
    model.save_pretrained(own / "base")
    words = ["base: the tokenizer has 259 tokens, and the model's embedding 100 rows"]
    refused(command("train", "run.yaml", "--output", "out"), *words)
    refused(command("train", "run.yaml", "--dry-run"), *words)


def test_what_the_system_refuses_is_no_fault(command, own, monkeypatch) -> None:
    from loraweave.runs.config import RunConfig

    monkeypatch.setattr(RunConfig, "load", raising(PermissionError(errno.EACCES, "Permission denied", "/a/[b]")))
    refused(command("train", "run.yaml"), "error: /a/[b]: Permission denied")


def test_a_name_with_brackets_is_printed_as_it_stands(command, own) -> None:
    code, out, err = command("train", "run.yaml", "--output", "out[/b]x", "--set", "train.max_steps=1")
    assert code == 0, err
    assert "run       out[/b]x" in out
    text = (own / "run.yaml").read_text()
    (own / "run.yaml").write_text(text.replace('"parity.yaml"', "{task: parity.yaml, name: '[bold] :wave:'}"))
    code, out, err = command("train", "run.yaml", "--output", "other", "--set", "train.max_steps=1")
    assert code == 0, err
    assert out.count("[bold] :wave:") == 2
    code, out, err = command("eval", "other", "--limit", 1)
    assert code == 0, err
    assert "[bold] :wave:" in out


def raising(error: BaseException):
    def read(*arguments: object) -> None:
        raise error

    return read


@pytest.mark.parametrize("output", [None, "kept", "empty", "absent"])
def test_the_last_net(command, own, monkeypatch, tmp_path, output: str | None) -> None:
    """One line, exit code 70, and the traceback in a file that the line names."""
    from loraweave.runs.config import RunConfig

    for name in ("kept", "empty", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept" / "run.yaml").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(RunConfig, "load", raising(LookupError("no [bold] such\nthing")))
    code, out, err = command("train", "run.yaml", *(["--output", tmp_path / output] if output else []))
    assert (code, out) == (70, "")
    assert len(err.splitlines()) == 1
    assert "LookupError: no [bold] such)" in err
    (file,) = re.findall(r"the traceback is in (\S+);", err)
    assert Path(file).parent == tmp_path / ("kept" if output == "kept" else "temporary")
    text = Path(file).read_text()
    assert "loraweave 'train' 'run.yaml'" in text
    assert "raise error" in text
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_is_no_fault_and_what_is_no_exception(command, own, monkeypatch) -> None:
    from loraweave.runs.config import RunConfig

    monkeypatch.setattr(RunConfig, "load", raising(MemoryError()))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (70, 1)
    assert "memory is full" in err
    assert "train.per_device_train_batch_size" in err
    panic = type("PanicException", (BaseException,), {})  # as the Rust libraries underneath raise
    monkeypatch.setattr(RunConfig, "load", raising(panic("called `Option::unwrap()`")))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (70, 1)
    assert "PanicException: called" in err


def test_a_message_of_any_length_is_one_line(command, own, monkeypatch) -> None:
    from loraweave.errors import UserError
    from loraweave.runs.config import RunConfig

    monkeypatch.setattr(RunConfig, "load", raising(UserError("long \n" * 10_000)))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (2, 1)
    assert len(err) < app.LONGEST + 20
