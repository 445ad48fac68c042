"""Every recipe resolves without network or weights, and trains what a count by hand says."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import yaml
from lm_eval.api.instance import Instance
from rich.console import Console

from loraweave.estimate import dry_run as module
from loraweave.estimate.dry_run import dry_run
from loraweave.estimate.weightless import SHAPES
from loraweave.runs.config import RunConfig
from loraweave.tasks import load_tasks
from loraweave.training.run import train

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "recipes"

SIZES = {  # as published
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
}


def heads_sharing_one_a(layers: int, width: int, inner: int, r: int, heads: int, router: bool) -> int:
    """HydraLoRA, R-LoRA and M-LoRA on gate, up and down: r d_in + N r d_out, and N d_in for a router."""
    narrow = r * width + heads * r * inner + router * heads * width
    wide = r * inner + heads * r * width + router * heads * inner
    return layers * (2 * narrow + wide)


def lora(layers: int, r: int, *shapes: tuple[int, int]) -> int:
    return layers * sum(r * (d_in + d_out) for d_in, d_out in shapes)


TRAINED = {
    "multilora_llama2_7b": 32 * 4 * 3 * (8 * (4096 + 4096) + 4096),
    "rlora_qwen2.5_0.5b": heads_sharing_one_a(24, 896, 4864, r=4, heads=5, router=True),
    "rlora_qwen2.5_3b": heads_sharing_one_a(36, 2048, 11008, r=4, heads=5, router=True),
    "mlora_qwen2.5_3b": heads_sharing_one_a(36, 2048, 11008, r=4, heads=5, router=False),
    "mtllora_llama2_7b": 32 * 4 * (8 * 4096 + 3 * 8 * 4096 + 8 * (8 * 8 + 3)),
    "hydralora_llama2_7b": heads_sharing_one_a(32, 4096, 11008, r=4, heads=4, router=True),
    "alignlora_qwen2.5_7b": lora(28, 8, (3584, 18944), (3584, 18944), (18944, 3584)),
    "commonsense170k_llama2_7b": lora(32, 32, *[(4096, 4096)] * 3, (4096, 11008), (11008, 4096)),
}


WITH_MEMORY = module._memory


@pytest.fixture(scope="module", autouse=True)
def without_memory() -> Iterator[None]:
    """Memory has tests of its own, and takes seconds for a model of billions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_memory", lambda *_: {})
        yield


def test_the_recipes_are_these() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(TRAINED)
    assert {str(path.parent.relative_to(SHAPES)) for path in SHAPES.rglob("config.json")} == set(SIZES)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_a_recipe(name: str, tmp_path: Path) -> None:
    config = RunConfig.load(RECIPES / f"{name}.yaml")
    said = dry_run(config, tmp_path / "out", Console(file=io.StringIO()))
    assert said.parameters == SIZES[config.model]
    assert said.trainable == TRAINED[name]
    assert said.config.train["packing"] is False  # the papers' batches are of examples
    assert all(outline.data and outline.scored_by for outline in said.tasks)
    assert not (tmp_path / "out").exists()


def on_the_page(name: str) -> str:
    """The recipe's row in the table."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    return next(line for line in page.splitlines() if f"(../examples/recipes/{name}.yaml)" in line)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_the_page_has_the_recipe_as_it_is(name: str) -> None:
    row = on_the_page(name)
    assert f"{TRAINED[name]:,}" in row
    assert yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["model"].split("/")[1] in row


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TRAINED))
def test_the_page_has_the_memory_of_the_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory", WITH_MEMORY)
    monkeypatch.setattr(module, "LARGEST_ON_CPU", 0)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    said = dry_run(RunConfig.load(RECIPES / f"{name}.yaml"), tmp_path / "out", Console(file=io.StringIO()))
    assert f"| {said.memory['one GPU'].peak / 1e9:.1f} GB |" in on_the_page(name)


@pytest.mark.parametrize(
    ("task", "row", "prompt", "answer"),
    [
        (
            "alpaca",
            {"instruction": "Add.", "input": "2 2", "output": "4"},
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:\n",
            "4",
        ),
        (
            "dolly",
            {"instruction": "Who?", "context": "Ann was there.", "response": "Ann", "category": "qa"},
            "Ann was there.\n\nInstruction: Who?\nAnswer:",
            " Ann",
        ),
    ],
)
def test_instruction_data_are_split_and_scored(
    task: str, row: dict, prompt: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = "output" if task == "alpaca" else "response"
    rows = [row] * 600 + [{**row, column: ""}] * 3  # Alpaca has rows without an answer
    monkeypatch.setattr(datasets, "load_dataset", lambda path, split: datasets.Dataset.from_list(rows))
    (loaded,) = load_tasks([f"tasks/{task}.yaml"], RECIPES, trust_code=True)
    examples = loaded.training_examples() + loaded.validation_examples()
    assert (len(examples), len(loaded.test_examples())) == (100, 500)
    assert str(examples[0].prompt).endswith(prompt)
    assert examples[0].completion == answer
    scored = loaded.lm_eval.process_results(row, [(-3.0, True)])
    assert scored == {"bits_per_byte": (-3.0, len(answer.strip()))}


def test_a_commonsense_answer_is_found_in_what_the_model_writes(tmp_path: Path) -> None:
    text = (RECIPES / "tasks" / "commonsense_170k.yaml").read_text(encoding="utf-8")
    files = {name: tmp_path / f"{name}.json" for name in ("train", "test")}
    for name, file in files.items():
        row = {
            "instruction": f"Is it so in {name}?",
            "input": "",
            "output": "the correct answer is ending3",
            "answer": "ending3",
        }
        file.write_text(json.dumps([row]))
    text = re.sub(r"train: https\S+", f"train: {files['train']}", text)
    text = re.sub(r"test:\n( +- https\S+\n)+", f"test: [{files['test']}]\n", text)
    (tmp_path / "task.yaml").write_text(text)
    (task,) = load_tasks(["task.yaml"], tmp_path)
    example = task.test_examples()[0]
    assert example.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
        "                ### Instruction:\n                Is it so in test?\n\n"
        "                ### Response:\n                "
    )
    assert example.completion == "the correct answer is ending3"
    doc = task.lm_eval.eval_docs[0]
    for written, score in (("the correct answer is ending3", 1.0), ("I say ending3", 1.0), ("ending2", 0.0), ("", 0.0)):
        (filters,) = task.lm_eval._filters
        asked = Instance("generate_until", doc, ("", {}), 0, resps=[written])
        filters.apply([asked])
        found = asked.filtered_resps["first_answer"]
        assert task.lm_eval.process_results(doc, [found]) == {"exact_match": score}


def test_a_recipe_trains_on_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HydraLoRA's, with the base that ships and a few rows in the columns of the data sets."""
    dolly = [{"instruction": f"Say {n}.", "context": "", "response": f"{n}!", "category": "qa"} for n in range(520)]
    mmlu = [{"question": f"{n} + 1?", "choices": ["0", str(n + 1), "-1", "?"], "answer": 1} for n in range(30)]
    splits = {name: datasets.Dataset.from_list(mmlu) for name in ("auxiliary_train", "validation", "test", "dev")}

    def load(path: str, name: str | None = None, split: str | None = None) -> datasets.Dataset | dict:
        return datasets.Dataset.from_list(dolly) if split else splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    overrides = ["model=nano", "train.max_steps=1", "train.max_length=64", "train.report_to=none"]
    config = RunConfig.load(RECIPES / "hydralora_llama2_7b.yaml", overrides)
    said = dry_run(config, tmp_path / "out", Console(file=io.StringIO()))
    done = train(config, tmp_path / "out", console=Console(file=io.StringIO()))
    assert (done.steps, done.trainable_parameters) == (1, said.trainable)
    assert [row["drawn"] for row in done.mixture] == [8, 0]
