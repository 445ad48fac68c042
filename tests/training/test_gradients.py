"""Cosines of the tasks' gradients: the right numbers, and a training that does not notice."""

import io
import json
from pathlib import Path

import pytest
import torch
from few import few
from peft import get_peft_model
from rich.console import Console
from tiny_rows import NAMES, random_rows
from tiny_training import as_rows
from torch.nn.functional import cosine_similarity

from loraweave import MtlLoraConfig
from loraweave.runs.config import RunConfig
from loraweave.training import gradients
from loraweave.training.callbacks import Clock
from loraweave.training.gradients import GradientRecord, describe
from loraweave.training.run import RunResult, train


def run(project: Path, output: str, *overrides: str, **arguments) -> RunResult:
    arguments.setdefault("console", Console(file=io.StringIO()))
    return train(RunConfig.load(project / "run.yaml", overrides), project / output, **arguments)


def recorded(result: RunResult) -> dict:
    return json.loads((result.folder / "gradients.json").read_text())


class Interrupt:
    """A progress display that stops the run."""

    def __init__(self, at: int) -> None:
        self.at = at

    def start(self, name: str, total: int) -> None:
        pass

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        if step == self.at:
            raise KeyboardInterrupt

    def stop(self) -> None:
        pass


@pytest.fixture
def record(tiny_model, make_trainer, rows, tmp_path):
    """A record of an MTL-LoRA trainer whose adapter is no longer at its start, on all six rows of each task."""
    config = MtlLoraConfig(r=2, task_names=NAMES, lora_dropout=0.5, init_weights=False, task_type="CAUSAL_LM")
    trainer = make_trainer(get_peft_model(tiny_model(), config).train(), rows)
    made = GradientRecord(tmp_path / "gradients.json", NAMES, [rows], 7200, Clock(), Console(file=io.StringIO()))
    made.trainer = trainer
    return made


def test_cosines_and_norms_are_those_of_the_losses_gradients(record, rows):
    record._add(record.trainer.state, 0)
    model = record.trainer.model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    expected, halves = [], []
    for task, name in enumerate(NAMES):
        chosen = [i for i in range(len(rows)) if rows.tasks[i] == task]
        sums, tokens = [], 0
        for i in chosen:
            row = rows.joined([i])
            ids, labels = (torch.tensor(row[key])[None] for key in ("input_ids", "labels"))
            scored = int((labels != -100).sum())
            loss = model(input_ids=ids, labels=labels, tasks=name).loss * scored
            sums.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]))
            tokens += scored
        expected.append(sum(sums) / tokens)
        half = (len(chosen) + 1) // 2
        halves.append(cosine_similarity(sum(sums[:half]), sum(sums[half:]), dim=0))
    found = json.loads(record.path.read_text())["steps"][0]
    cosines = [[cosine_similarity(a, b, dim=0) for b in expected] for a in expected]
    torch.testing.assert_close(torch.tensor(found["cosine"]), torch.tensor(cosines), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(found["norms"]), torch.stack(expected).norm(dim=1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(found["within"]), torch.tensor(halves), atol=1e-5, rtol=1e-4)


def test_examples_come_from_validation_unless_it_has_too_few(rows, tmp_path):
    few = as_rows(*(part[:3] for part in random_rows(seed=1)))  # two of the first task, one of the second
    made = GradientRecord(tmp_path / "g.json", NAMES, [few, rows], 2400, Clock(), Console(file=io.StringIO()))
    assert [source is few for source, _ in made.examples] == [True, False]
    assert made.record["examples"] == [2, 2]
    assert all((source.tasks[chosen] == task).all() for task, (source, chosen) in enumerate(made.examples))


def test_recording_leaves_modes_gradients_and_random_numbers_alone(record):
    model = record.trainer.model
    model.base_model.model.lm_head.eval()  # one module in a mode of its own
    before = [module.training for module in model.modules()], torch.get_rng_state()
    record._add(record.trainer.state, 0)
    assert [module.training for module in model.modules()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_many_numbers_every_so_manieth_stands_for_all(record, monkeypatch):
    record._add(record.trainer.state, 0)
    trained = sum(p.numel() for p in record.trainer.model.parameters() if p.requires_grad)
    monkeypatch.setattr(gradients, "HELD", 2 * len(NAMES) * trained // 2)
    record._add(record.trainer.state, 1)
    whole, part = json.loads(record.path.read_text())["steps"]
    assert "stride" not in whole
    assert part["stride"] == 3
    assert part["norms"][0] < whole["norms"][0]
    assert part["cosine"][0][1] == pytest.approx(whole["cosine"][0][1], abs=0.2)


@pytest.mark.parametrize("method", few(["lora", "rlora", "full"], ["rlora"]))
def test_training_is_the_same_to_the_bit(project, monkeypatch, method):
    settings = (f"method={method}", "train.max_steps=6", "train.bf16=false")
    watched = run(project, "watched", *settings)
    assert [entry["share"] for entry in recorded(watched)["steps"]] == [0, 0.5, 1]
    monkeypatch.setattr(GradientRecord, "_add", lambda *arguments: None)
    alone = run(project, "alone", *settings)
    assert not (alone.folder / "gradients.json").exists()
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (watched.adapter / file).read_bytes() == (alone.adapter / file).read_bytes()


def test_a_resumed_run_records_what_the_whole_run_does(project):
    settings = ("train.save_strategy=steps", "train.save_steps=3", "train.max_steps=12", "train.bf16=false")
    whole = run(project, "whole", *settings)
    with pytest.raises(KeyboardInterrupt):
        run(project, "out", *settings, progress=Interrupt(8))  # after the middle, whose checkpoint is kept
    resumed = run(project, "out", *settings, resume=True)
    first, second = recorded(whole), recorded(resumed)
    assert [entry["step"] for entry in second["steps"]] == [0, 6, 12]
    for one, other in zip(first["steps"], second["steps"], strict=True):
        torch.testing.assert_close(torch.tensor(one["cosine"]), torch.tensor(other["cosine"]), atol=1e-4, rtol=1e-3)


def test_a_run_goes_on_where_gradients_cannot_be_taken(project, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(GradientRecord, "_measure", fail)
    printed = io.StringIO()
    result = run(project, "out", "train.max_steps=2", console=Console(file=printed, width=200))
    assert result.steps == 2
    assert "were not recorded: out of memory" in printed.getvalue()
    assert not (result.folder / "gradients.json").exists()


def test_one_task_has_nothing_to_agree_with(project):
    result = run(project, "out", "tasks=[parity.yaml]", "train.max_steps=2")
    assert not (result.folder / "gradients.json").exists()


def test_a_gradient_of_zero_has_no_cosine():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = describe((vectors @ vectors.T).view(2, 2, 2, 2))
    assert found == {"cosine": [[1.0, None], [None, None]], "norms": [2.0, 0.0], "within": [1.0, None], "noise": None}


def test_noise_is_how_much_the_cosine_of_two_tasks_varies_with_their_examples():
    random = torch.Generator().manual_seed(0)
    true = torch.randn(3, 1, 40, generator=random, dtype=torch.float64)
    cosines, noises = [], []
    for _ in range(400):
        halves = true + torch.randn(3, 2, 40, generator=random, dtype=torch.float64)
        found = describe(torch.einsum("aix,bjx->aibj", halves, halves))
        cosines.append([found["cosine"][1][0], found["cosine"][2][0], found["cosine"][2][1]])
        noises.append(found["noise"] ** 2)
    varies = torch.tensor(cosines).var(dim=0).mean().item()
    assert sum(noises) / len(noises) == pytest.approx(varies, rel=0.25)
