"""Who speaks for whom: from the adapter, from the run's record, and from a sample of data."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_adapters import NAMES
from tiny_project import byte_tokenizer, write_project
from tiny_runs import random_run

from loraweave.analysis import routing
from loraweave.analysis.numbers import analyze
from loraweave.analysis.sample import SEEN, _rows, sample_router
from loraweave.analysis.subjects import open_runs
from loraweave.data.encode import encode_all
from loraweave.errors import UserError
from loraweave.runs.loading import load_run
from loraweave.tasks.examples import Example


@pytest.mark.parametrize("name", ["mtllora", "moelora"])
def test_task_gates_are_read_from_the_adapter(saved, name):
    model, folder = saved(name)
    found = routing.task_routing(open_runs([folder])[0])
    layer = "model.layers.1.mlp.down_proj"
    expected = model.base_model.model.get_submodule(layer).formula("default").head_weights()
    assert list(found[layer].usage) == NAMES
    torch.testing.assert_close(torch.stack(list(found[layer].usage.values())), expected.detach())
    assert all(0 <= entropy <= 1 for entropy in found[layer].entropy.values())


def test_a_gate_that_is_uniform_has_an_entropy_of_one(saved):
    model, folder = saved("mtllora")
    for key, parameter in model.named_parameters():
        if "task_logits" in key:
            parameter.data.zero_()
    model.save_pretrained(folder)
    found = routing.task_routing(open_runs([folder])[0])
    assert list(found["model.layers.0.mlp.up_proj"].entropy.values()) == pytest.approx([1.0, 1.0])


def test_token_routers_come_from_the_run_s_record(runs):
    run = open_runs([runs["rlora"]])[0]
    record = json.loads((runs["rlora"] / "routing.json").read_text())
    found = routing.recorded_routing(run)
    assert found.keys() == run.adapter.sizes.keys()
    layer = record["layers"]["model.layers.0.mlp.up_proj.default"]
    got = found["model.layers.0.mlp.up_proj"]
    for number, task in enumerate(record["tasks"]):
        if layer["usage"][number] is not None:
            assert got.usage[task].tolist() == pytest.approx(layer["usage"][number])
    summary = routing.summary("rlora", found)
    shares = torch.tensor(summary["usage"])
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)), atol=1e-3, rtol=0)
    assert routing.recorded_routing(open_runs([runs["mtllora"]])[0]) == {}


def test_a_record_of_routing_without_an_entropy_is_refused(runs, tmp_path):
    folder = shutil.copytree(runs["rlora"], tmp_path / "run")
    record = json.loads((folder / "routing.json").read_text())
    layer = record["layers"]["model.layers.0.mlp.up_proj.default"]
    layer["entropy_by_task"] = [None] * len(record["tasks"])
    (folder / "routing.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"up_proj\.default\.entropy_by_task: lacks that of a task with usage"):
        routing.recorded_routing(open_runs([folder])[0])


def test_a_sample_weighs_heads_as_the_router_does(runs):
    run = open_runs([runs["rlora"]])[0]
    sampled = sample_router(run, 3)
    loaded = load_run(runs["rlora"])
    layer = "model.layers.1.mlp.up_proj"
    module = loaded.model.base_model.model.get_submodule(layer)
    inputs: list[torch.Tensor] = []
    module.register_forward_hook(lambda _, args, __: inputs.append(args[0][0]))
    by_task, by_token = {}, {}
    for task in loaded.tasks:
        rows = encode_all((task.validation_examples() or task.training_examples())[:3], loaded.tokenizer, 64).rows
        inputs.clear()
        with torch.no_grad():
            for row in rows:
                loaded.model(input_ids=torch.tensor([row["input_ids"]]), tasks=task.name)
            weights = torch.softmax(torch.cat(inputs) @ module.weave_router["default"].T, dim=-1)
        by_task[task.name] = weights.mean(0)
        for token, weight in zip([t for row in rows for t in row["input_ids"]], weights, strict=True):
            by_token.setdefault(token, []).append(weight)
    for task, expected in by_task.items():
        torch.testing.assert_close(sampled.routing[layer].usage[task].float(), expected, atol=1e-5, rtol=1e-4)

    means = {token: torch.stack(seen).mean(0) for token, seen in by_token.items() if len(seen) >= SEEN}
    for head in range(5):
        (entry,) = [e for e in sampled.tokens if (e["layer"], e["head"]) == (layer, head)]
        best = max(means, key=lambda token: float(means[token][head]))
        assert entry["tokens"][0]["token"] == loaded.tokenizer.decode([best])
        assert entry["tokens"][0]["weight"] == pytest.approx(float(means[best][head]), rel=1e-4)
        assert entry["tokens"][0]["count"] == len(by_token[best])
        assert all(token["count"] >= SEEN for token in entry["tokens"])
    assert {e["head"] for e in sampled.tokens if e["layer"] is None} == set(range(5))


def test_means_over_layers_take_a_head_where_it_is():
    two, three = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(routing.mean_over_layers([two, three]), torch.tensor([[0.35, 0.4, 0.5]]))
    torch.testing.assert_close(routing.mean_over_layers([three]), three)


def test_a_layer_with_one_head_alone_has_nothing_to_weigh_and_nothing_to_be_like(saved, tmp_path):
    found = analyze([saved("mtllora", num_heads_pattern={"q_proj": 1})[1]])
    for section in ("heads", "head_map", "routing"):
        assert {entry["module"] for entry in found[section]} == {entry["module"] for entry in found["spectra"]} - {
            "q_proj"
        }
    assert all(0 < entropy < 1 for entropy in found["routing_summary"][0]["entropy"])
    method = {"name": "weave", "gate": "token", "num_heads_pattern": {"up_proj": 3}}  # the others have one
    run = open_runs([random_run(write_project(tmp_path / "project"), method, tmp_path / "run")])[0]
    sampled = sample_router(run, 2)
    assert {layer.rpartition(".")[2] for layer in sampled.routing} == {"up_proj"}
    assert {entry["layer"] and entry["layer"].rpartition(".")[2] for entry in sampled.tokens} == {"up_proj", None}


def test_a_sample_passes_over_answers_that_training_left_out(tiny_model):
    said = [Example("a:", answer) for answer in ("much too long " * 20, " b", " c", " d")]
    task = SimpleNamespace(validation_examples=lambda: said, training_examples=lambda: [])
    config = SimpleNamespace(train={"max_length": 16})
    loaded = SimpleNamespace(config=config, model=tiny_model("llama"), tokenizer=byte_tokenizer(), tasks=[task])
    rows = _rows(loaded, 2)
    assert [loaded.tokenizer.decode(rows.joined([i])["input_ids"]).strip("</s>") for i in range(len(rows))] == [
        "a: b",
        "a: c",
    ]
