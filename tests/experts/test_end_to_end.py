"""All of it: five tasks become experts of nano, are routed to by their instructions, switched exactly, and answer in
one batch what each answers alone."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_experts import bits, count_words
from typer.testing import CliRunner

import loraweave
from loraweave import ExpertLibrary, ExpertManager
from loraweave.bases import load_base
from loraweave.cli.app import app
from loraweave.experts.config import ExpertsConfig
from loraweave.experts.route_eval import route_eval

TASKS = Path(loraweave.__file__).parent / "quickstart" / "tasks"
PREFIXES = {
    "topic": "Text: ",
    "date": "Date: ",
    "commands": "Command: ",
    "larger": "Which is larger, ",
    "backwards": "Words: ",
}


def loraweave_experts(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["experts", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("five") / "run.yaml"
    values = {
        "model": "nano",
        "method": {"name": "lora", "r": 4, "lora_dropout": 0.0},
        "tasks": [str(TASKS / f"{name}.yaml") for name in PREFIXES],
        "train": {
            "max_steps": 6,
            "max_length": 128,
            "per_device_train_batch_size": 2,
            "learning_rate": 5e-3,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
        },
        "eval": {"limit": 4},
        "experts": {name: {"prefixes": [prefix]} for name, prefix in PREFIXES.items()},
    }
    values["experts"]["larger"]["method"] = {"r": 8}  # type: ignore[index]
    path.write_text(json.dumps(values))
    return path


@pytest.mark.long
def test_five_tasks_are_trained_routed_switched_and_answered_in_one_batch(run_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    loraweave_experts("train", run_file, "--library", folder, "--together", "--trust-code")
    library = ExpertLibrary(folder)
    assert set(library.experts()) == set(PREFIXES)
    assert library.expert("larger").rank == 8
    assert "5 experts, all as they were added" in loraweave_experts("verify", folder)
    printed = loraweave_experts("list", folder)
    for name in PREFIXES:
        score = library.expert(name).scores[name]
        assert score["n"] == 4
        assert re.search(rf"{name} .* {score['score']:.3g} {score['unit']}", printed)

    manager = ExpertManager(library, embed=count_words, device="cpu", memory=10**9)
    config = ExpertsConfig.load(run_file)
    config.trust_code = True
    tasks = config.load_tasks()
    for each in route_eval(manager.router, tasks):
        assert each.accuracy == 1.0
        assert set(each.by) <= {"rule", "prefix"}

    prompts = [task.test_examples()[number].prompt for number in range(2) for task in tasks]
    names = [task.name for _ in range(2) for task in tasks]
    assert [manager.route(prompt).expert for prompt in prompts] == names
    before = bits(manager.model)
    mixed = manager.generate([*prompts, prompts[0]], [*["auto"] * len(prompts), "base"], max_new_tokens=8)
    by_peft: Any = None
    for name in PREFIXES:
        files = str(library.expert(name).folder)
        if by_peft is None:
            by_peft = PeftModel.from_pretrained(load_base("nano", "float32")[0], files, adapter_name=name).eval()
        else:
            by_peft.load_adapter(files, adapter_name=name)
    for prompt, name, said in zip([*prompts, prompts[0]], [*names, "base"], mixed, strict=True):
        with manager.using(name) as model:
            assert answer(model, manager.tokenizer, prompt) == said
        if name != "base":
            by_peft.set_adapter(name)
        with by_peft.disable_adapter() if name == "base" else nullcontext():
            assert answer(by_peft, manager.tokenizer, prompt) == said
    assert len(set(mixed)) > 3
    manager.close()
    assert bits(manager.model) == before

    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    from tiny_server import ask, serving

    with serving(folder) as server, ThreadPoolExecutor(len(mixed)) as pool:
        models = ["library:auto"] * len(prompts) + ["base"]
        bodies = [
            {"model": model, "prompt": prompt, "max_tokens": 8}
            for model, prompt in zip(models, [*prompts, prompts[0]], strict=True)
        ]
        answers = [
            content for _, content in pool.map(lambda body: ask(server.address, "/v1/completions", body), bodies)
        ]
    assert [answer["model"] for answer in answers] == [*(f"library:{name}" for name in names), "base"]
    assert [answer["choices"][0]["text"] for answer in answers] == mixed


@torch.no_grad()
def answer(model: Any, tokenizer: Any, prompt: Any) -> str:
    from loraweave.data.border import context_ids

    ids = torch.tensor([context_ids(prompt, tokenizer)])
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
    return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
