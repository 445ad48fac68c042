"""The run file: what it means, and one clear line for everything that can be wrong in it."""

from pathlib import Path

import pytest

from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.runs.settings import build_arguments

GOOD = """\
model: nano
method:
  name: lora
  r: 4
tasks: [boolq]
train:
  learning_rate: 1e-4
"""


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    (folder / "run.yaml").write_text(text)
    return RunConfig.load(folder / "run.yaml", overrides)


def test_values_and_overrides_are_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "train.learning_rate=2e-3", "method.target_modules=[q_proj]", "eval.limit=5", "seed=7"
    )
    assert config.train == {"learning_rate": 0.002}
    assert config.method == {"name": "lora", "r": 4, "target_modules": ["q_proj"]}
    assert (config.eval.limit, config.seed, config.method_name) == (5, 7, "lora")


def test_an_override_of_a_field_keeps_the_preset(tmp_path: Path) -> None:
    assert load(tmp_path, "model: nano\nmethod: mlora\ntasks: [boolq]\n", "method.r=2").method == {
        "name": "mlora",
        "r": 2,
    }
    assert load(tmp_path, GOOD + "mixture: equal\n", "mixture.total=9").mixture.strategy == "equal"


def test_values_of_every_kind_of_training_argument(tmp_path: Path) -> None:
    train = {
        "eval_strategy": False,  # as YAML reads `no`
        "save_strategy": "best",
        "report_to": ["none"],
        "bf16": None,
        "num_train_epochs": 2,
        "eval_steps": 0.5,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "optim": "adamw_torch",
    }
    assert RunConfig(model="nano", tasks=["boolq"], train=train).train == train


def test_float16_takes_the_place_of_bfloat16(tmp_path: Path) -> None:
    assert not build_arguments({"fp16": True}, 0, tmp_path).bf16
    with pytest.raises(UserError, match="fp16 and bf16"):
        build_arguments({"fp16": True, "bf16": True}, 0, tmp_path)


def test_bare_knobs_are_a_method(tmp_path: Path) -> None:
    config = load(tmp_path, "model: nano\nmethod: {num_heads: 2, gate: token}\ntasks: [boolq]\n")
    assert config.method_name == "weave"


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir("/")
    config = load(tmp_path, "model: base\ntasks: [a.jsonl]\ndata_dir: data\noutput: out\n")
    assert config.model == str((tmp_path / "base").resolve())
    assert config.data_dir == str(tmp_path / "data")
    assert config.output == str(tmp_path / "out")
    assert config.base_dir == tmp_path
    assert load(tmp_path, "model: nano\ntasks: [a]\noutput: out\n", "output=here").output == "here"
    assert load(tmp_path, "model: nano\ntasks: [a]\ndata_dir: data\n", "data_dir=here").data_dir == "/here"


def test_a_saved_file_gives_the_same_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "mixture: equal\ndata_dir: data\n")
    (tmp_path / "elsewhere").mkdir()
    config.save(tmp_path / "elsewhere" / "run.yaml")
    assert RunConfig.load(tmp_path / "elsewhere" / "run.yaml") == config


@pytest.mark.parametrize(
    ("text", "overrides", "line", "words"),
    [
        ("model: [\n", [], 2, "not valid YAML"),
        (GOOD + "seed: 1\nseed: 2\n", [], 9, "'seed' is given twice"),
        (GOOD + "tasl: 3\n", [], 8, "unknown key 'tasl', did you mean 'tasks'?"),
        (GOOD + "seed: x\n", [], 8, "seed: "),
        (GOOD + "eval: {limit: 0}\n", [], 8, "eval.limit"),
        (GOOD + "mixture:\n  stratgy: equal\n", [], 9, "did you mean 'strategy'?"),
        (GOOD + "mixture: temperature\n", [], 8, "needs 'temperature'"),
        (GOOD.replace("r: 4", "r: 0"), [], 4, "at least 1, got 0"),
        (GOOD.replace("r: 4", "lora_alhpa: 4"), [], 4, "did you mean 'lora_alpha'?"),
        (GOOD.replace("name: lora", "name: rlroa"), [], 3, "unknown method 'rlroa', did you mean 'rlora'?"),
        (GOOD.replace("learning_rate", "learnin_rate"), [], 7, "did you mean 'learning_rate'?"),
        (GOOD.replace("learning_rate: 1e-4", "output_dir: x"), [], 7, "set `output` at the top"),
        (GOOD.replace("1e-4", "fast"), [], 7, "train.learning_rate: Input should be a valid number, got 'fast'"),
        (GOOD.replace("1e-4", "{lora: -1}"), [], 7, "train.learning_rate must be at least 0, got -1"),
        (GOOD + "  max_steps:\n", [], 8, "train.max_steps: Input should be a valid integer, got None"),
        (GOOD + "  max_length: null\n", [], 8, "train.max_length must be from 1 to 1,048,576, got None"),
        (GOOD + "  packing: maybe\n", [], 8, "train.packing: Input should be a valid boolean, got 'maybe'"),
        (GOOD + "  eval_strategy: sometimes\n", [], 8, "train.eval_strategy: sometimes is not a valid"),
        (GOOD + "  report_to: tensorbord\n", [], 8, "no 'tensorbord', did you mean 'tensorboard'?"),
        (GOOD, ["train.learning_rate=.nan"], None, "must be a finite number, got nan"),
        (GOOD, ["train.per_device_train_batch_size=0"], None, "must be from 1 to 1,048,576, got 0"),
        (GOOD, ["seed=4294967296"], None, "less than or equal to 4294967295"),
        (GOOD, ["train.max_len=3"], None, "did you mean 'max_length'?"),
        (GOOD, ["method.r=0"], None, "at least 1, got 0"),
        (GOOD, ["sed=3"], None, "did you mean 'seed'?"),
        (GOOD, ["oops"], None, "key=value"),
        (GOOD, ["seed=["], None, "not valid YAML"),
        (GOOD, ["seed.more=1"], None, "valid integer"),
        (GOOD + "seed: 3\n", ["seed.more=1"], None, "not a mapping"),
        ("tasks: [a]\nseed: 3\n", [], None, "'model' is missing"),
        ("- 1\n", [], None, "mapping"),
        (GOOD.replace("model", "modle"), [], 1, "unknown key 'modle', did you mean 'model'?"),
        (GOOD, ["method.name=rlroa"], None, "unknown method 'rlroa', did you mean 'rlora'?"),
        ("model: x\ntasks:\n  - boolq\n  - {tsk: rte}\n", [], 4, "tasks: unknown key 'tsk', did you mean 'task'?"),
        ("model: x\ntasks: [{task: a, name: a/b}]\n", [], 2, "'a/b' cannot be a name"),
        ("model: x\ntasks: []\n", [], 2, "tasks"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, text: str, overrides: list[str], line: int | None, words: str
) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text, *overrides)
    message = str(error.value)
    place = f"{tmp_path / 'run.yaml'}:{line}: " if line else "--set" if overrides else str(tmp_path / "run.yaml")
    assert message.startswith(place)
    assert words in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: no such file"):
        RunConfig.load(tmp_path / "gone.yaml")
