"""A plain LoRA out of every method: loaded by PEFT alone it says the same, to the last digits, for each task."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from tiny_project import write_base
from tiny_runs import ADAPTERS, BESIDE_BLOCKS, BY_TASK, EXACT, NAMES, ROUTED, SMALL, random_run

import loraweave
from loraweave.bases import fingerprint, load_base
from loraweave.errors import UserError
from loraweave.export import Export, export, write
from loraweave.export.averages import mean_weights
from loraweave.runs.attaching import attach

IDS = torch.randint(3, 250, (3, 20), generator=torch.Generator().manual_seed(1))
READER = Path(__file__).parent / "loads_plain.py"


def said(run: Path, base: Path, task: str | None) -> torch.Tensor:
    """Logits of a run's own adapter."""
    model = attach(load_base(base)[0], run / "adapter").eval()
    told = loraweave.task(model, task) if task else contextlib.nullcontext()
    with torch.no_grad(), told:
        return model(input_ids=IDS).logits


@pytest.fixture(scope="session")
def exported(project: Path, finished: Callable[..., Path], tmp_path_factory) -> dict[str, list[Export]]:
    """Every method that is exact, as a plain LoRA, and the logits that PEFT finds in a process of its own."""
    folder = tmp_path_factory.mktemp("exports")
    made = {name: export(finished({"name": name, **SMALL}), "lora", folder / name) for name in EXACT}
    torch.save(IDS, folder / "ids.pt")
    paths = [str(each.path) for exports in made.values() for each in exports]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, READER, project / "base", folder / "ids.pt", *paths], check=True, env=environment)
    return made


@pytest.mark.parametrize("name", EXACT)
def test_peft_alone_says_the_same(project, finished, exported, name: str):
    run = finished({"name": name, **SMALL})
    assert [each.variant.task for each in exported[name]] == (NAMES if name in BY_TASK else [None])
    base = said_by_base(project)
    for each in exported[name]:
        expected, found = said(run, project / "base", each.variant.task), torch.load(each.path / "logits.pt")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (found - base).abs().max() > 0.1  # and not because it does nothing
        assert each.exact
        assert each.largest <= 1e-5


def said_by_base(project: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_base(project / "base")[0](input_ids=IDS).logits


@pytest.mark.parametrize("name", EXACT)
def test_it_reads_alike_everywhere(exported, name: str):
    """vLLM and llama.cpp read these fields and no others: nothing in a file may ask for more."""
    for each in exported[name]:
        config = json.loads((each.path / "adapter_config.json").read_text())
        ranks = {t.shape[0] for n, t in load_file(each.path / "adapter_model.safetensors").items() if "lora_A" in n}
        assert ranks == {config["r"]} == {config["lora_alpha"]} == {each.rank}
        unread = ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "layers_to_transform")
        assert not any(config.get(field) for field in unread)
        assert config["bias"] == "none"
        assert set(config["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"} | {
            "gate_proj",
            "up_proj",
            "down_proj",
        }


def test_the_record_has_hashes_of_what_went_in_and_came_out(finished, exported):
    (each,) = exported["multilora"]
    record = json.loads((each.path / "export.json").read_text())
    assert record["largest_difference"] == each.largest
    assert set(record["went_in"]) >= {"adapter_config.json", "adapter_model.safetensors"}
    assert set(record["files"]) >= {"adapter_model.safetensors", "tokenizer.json", "README.md"}
    assert record["rank"] == 12
    card = (each.path / "README.md").read_text()
    assert "library_name: peft" in card
    assert "vllm serve" in card
    assert "exact" in card.lower()


@pytest.mark.parametrize(
    "method",
    [
        {"name": "lora", "r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
        {"name": "mtllora", "r": 4, "rank_pattern": {"down_proj": 6}, "alpha_pattern": {"up_proj": 5}},
        {"name": "multilora", "r": 2, "num_heads_pattern": {"o_proj": 5}, "target_modules": ["o_proj", "v_proj"]},
        {"name": "multilora", "r": 4, "layers_to_transform": [1]},
        {"gate": "own", "task_transform": "diagonal", "r": 4},
        {"num_heads": 3, "gate": "channel", "start": "random_anchored", "r": 3},
    ],
    ids=str,
)
def test_patterns_and_scaling_go_into_the_factors(finished, project, tmp_path, method):
    run = finished(method)
    for each in export(run, "lora", tmp_path / "out"):
        config = json.loads((each.path / "adapter_config.json").read_text())
        assert not config["rank_pattern"]
        assert not config["alpha_pattern"]
        assert each.largest <= 1e-5


def test_one_task_of_several(finished, tmp_path):
    (only,) = export(finished({"name": "moelora", **SMALL}), "lora", tmp_path / "out", tasks=["double"])
    assert only.path == tmp_path / "out" / "double"
    assert (only.path / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ROUTED)
def test_heads_weighed_by_the_input_are_averaged_and_the_cost_is_measured(finished, tmp_path, name: str):
    run = finished({"name": name, **SMALL})
    with pytest.raises(UserError, match=r"--task NAME .* --uniform"):
        export(run, "lora", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (averaged,) = export(run, "lora", tmp_path / "averaged", tasks=["parity"], limit=12)
    uniform = export(run, "lora", tmp_path / "uniform", uniform=True, limit=12)
    for each in (averaged, *uniform):
        assert not each.exact
        for task, found in each.differences.items():
            assert found.kl > 0
            assert found.loss[0] != found.loss[1]
            before, after = each.scores[task]
            assert before["n"] == after["n"]
        assert "Not exact: KL" in (each.path / "README.md").read_text()
    assert set(uniform[0].differences) >= {"parity"}


def test_the_average_is_of_the_routers_own_weights(finished, project, tmp_path):
    """A router with no opinion weighs heads alike: then the average is exact, and equal to --uniform."""
    run = random_run(project, {"name": "hydralora", **SMALL}, tmp_path / "run")
    weights = run / "adapter" / "adapter_model.safetensors"
    tensors = {n: t * 0 if "router" in n else t for n, t in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    (averaged,) = export(run, "lora", tmp_path / "averaged", tasks=["notes"], limit=4)
    assert averaged.largest <= 1e-5
    export(run, "lora", tmp_path / "uniform", uniform=True, limit=4)
    one, other = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("averaged/notes", "uniform"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name])


def test_truncation_is_the_best_in_the_frobenius_norm_and_is_measured(finished, project, tmp_path):
    run = finished({"name": "multilora", **SMALL})
    (whole,) = export(run, "lora", tmp_path / "whole")
    (cut,) = export(run, "lora", tmp_path / "cut", max_rank=5, limit=8)
    assert (whole.rank, cut.rank, cut.native) == (12, 5, 12)
    one, other = (load_file(e.path / "adapter_model.safetensors") for e in (whole, cut))
    left = everything = 0.0
    for name in [n for n in one if "lora_A" in n]:
        dense = one[name.replace("lora_A", "lora_B")].double() @ one[name].double()
        u, s, v = torch.linalg.svd(dense, full_matrices=False)
        near = other[name.replace("lora_A", "lora_B")].double() @ other[name].double()
        torch.testing.assert_close(near, u[:, :5] * s[:5] @ v[:5], rtol=1e-4, atol=1e-5)
        left, everything = left + float(s[:5].square().sum()), everything + float(s.square().sum())
    assert cut.kept == pytest.approx(left / everything, rel=1e-6)
    assert set(cut.scores) == set(NAMES)
    assert not cut.exact
    (same,) = export(run, "lora", tmp_path / "same", max_rank=12)
    assert same.exact


def test_a_task_without_rows_to_be_scored_is_compared_all_the_same(project, tmp_path, capsys):
    """On rows that were learned where it is exact; what is not exact is measured on the other tasks, which is said."""
    (project / "few.jsonl").write_text('{"prompt": "Note:", "completion": " x"}\n')
    tasks = ["parity.yaml", {"task": "notes.jsonl", "name": "double", "eval": "double.yaml"}]
    tasks.append({"task": "few.jsonl", "name": "notes"})
    run = random_run(project, {"name": "mtllora", **SMALL}, tmp_path / "exact", tasks)
    for made in export(run, "lora", tmp_path / "out"):
        ((name, found),) = made.differences.items()
        assert (name, found.rows > 0, found.tokens > 0) == (made.variant.task, True, True)
    run = random_run(project, {"name": "hydralora", **SMALL}, tmp_path / "routed", tasks)
    (made,) = export(run, "lora", tmp_path / "uniform", uniform=True, limit=4)
    assert [*made.differences] == [*made.scores] == ["parity", "double"]
    assert all(found.tokens and found.kl > 0 for found in made.differences.values())
    assert "notes: not scored, too few rows to hold some out: name a file as 'test'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"task 'notes': .*few.jsonl has too few rows"):
        export(run, "lora", tmp_path / "none", tasks=["notes"], limit=4)
    assert not (tmp_path / "none").exists()


def test_data_of_an_adapter_without_its_run_are_refused(finished, tmp_path):
    with pytest.raises(UserError, match="data_dir is for a run, and this is none"):
        export(finished("lora") / "adapter", "lora", tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_its_run_is_compared_on_random_tokens(finished, tmp_path, capsys):
    (each,) = export(finished({"name": "mlora", **SMALL}) / "adapter", "lora", tmp_path / "out")
    assert each.exact
    assert set(each.differences) == {""}
    assert "random tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ({"name": "dora", **SMALL}, {}, ["DoRA", "--to merged"]),
        ({"name": "lora", **SMALL, "modules_to_save": ["lm_head"]}, {}, ["modules_to_save (lm_head)", "--to merged"]),
        ({"name": "lora", **SMALL, "bias": "all"}, {}, ["bias", "--to merged"]),
        ({"name": "mtlora", **SMALL}, {"uniform": True}, ["lies beside the whole block", "changes no weight"]),
        ({"name": "mtlora", **SMALL}, {"to": "merged", "uniform": True}, ["lies beside the whole block"]),
        ({"name": "lora", **SMALL}, {"tasks": ["parity"]}, ["--task parity", "same for all tasks"]),
        ({"name": "lora", **SMALL}, {"uniform": True}, ["--uniform", "weighs none so"]),
        ({"name": "mtllora", **SMALL}, {"tasks": ["duoble"]}, ["no such task", "did you mean 'double'"]),
        ({"name": "lora", **SMALL}, {"to": "lroa"}, ["--to lroa", "did you mean 'lora'"]),
    ],
    ids=str,
)
def test_refused_in_one_line_and_nothing_written(finished, tmp_path, method, arguments, words):
    with pytest.raises(UserError) as refused:
        export(finished(method), **{"to": "lora", "output": tmp_path / "out", **arguments})
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="something already"):
        export(finished({"name": "lora", **SMALL}), "lora", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_another_tokenizer_beside_an_adapter_is_told(project, finished, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(finished({"name": "lora", **SMALL}) / "adapter", adapter)
    _, tokenizer = load_base(project / "base")
    for template, told in ((None, False), ("{{ messages }}!", True)):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(adapter)
        (each,) = export(adapter, "lora", tmp_path / f"told-{told}")
        assert ("another chat template" in "".join(each.notes)) == told
        assert not (each.path / "chat_template.jinja").exists()
        assert "vllm serve" in (each.path / "README.md").read_text()
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(adapter)
    (each,) = export(adapter, "merged", tmp_path / "tokens")
    (note,) = each.notes
    assert "has other tokens ('<mine>') and another chat template than the base's" in note
    (adapter / "chat_template.jinja").unlink()
    (adapter / "tokenizer_config.json").write_text("torn")
    (adapter / "tokenizer.json").write_text("torn")
    (each,) = export(adapter, "lora", tmp_path / "torn")
    assert each.notes == ()


def test_a_folder_that_another_command_writes_is_refused(finished, tmp_path, monkeypatch):
    run, prepare = finished({"name": "lora", **SMALL}), write._prepare

    def meanwhile(*args):
        monkeypatch.setattr(write, "_prepare", prepare)
        with pytest.raises(UserError, match=r"out: process .* is writing this folder"):
            export(run, "merged", tmp_path / "out")
        return prepare(*args)

    monkeypatch.setattr(write, "_prepare", meanwhile)
    (each,) = export(run, "lora", tmp_path / "out")
    assert json.loads((each.path / "export.json").read_text())["to"] == "lora"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_a_name_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (".", ".."):
        with pytest.raises(UserError, match="wants a name of its own"):
            export(finished({"name": "lora", **SMALL}), "lora", output)


def test_a_vocabulary_that_was_saved_beside_and_is_another_one_is_found(project, tmp_path):
    """PEFT loads it over the base's, which a plain LoRA of the head does not bring with it."""
    run = random_run(project, {"name": "lora", **SMALL, "target_modules": ["lm_head"]}, tmp_path / "run")
    (each,) = export(run, "lora", tmp_path / "out")
    assert each.exact
    weights = run / "adapter" / "adapter_model.safetensors"
    tensors = {n: t + 0.1 if n.endswith("base_layer.weight") else t for n, t in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="does not do what the adapter does"):
        export(run, "lora", tmp_path / "other")


def test_a_revision_of_the_base_goes_with_what_is_made_of_it(project, tmp_path, monkeypatch):
    """Who loads the LoRA by PEFT, or by the line that is printed, must not get the base's newest revision."""
    revisions = {"main": 5, "v2": 0}
    for (name, seed), commit in zip(revisions.items(), ("a" * 40, "b" * 40), strict=True):
        cached = tmp_path / "hub" / "models--org--model"
        write_base(cached / "snapshots" / commit, seed)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run = random_run(project, {"name": "own", **SMALL}, tmp_path / "run")  # of a base that v2 is
    for path in (run / "run.yaml", *run.glob("**/base.json"), run / "adapter" / "adapter_config.json"):
        text = path.read_text().replace("model: ./base\n", "model: {name: org/model, revision: v2}\n")
        text = text.replace(f'"name": "{project}/base"', '"name": "org/model", "revision": "v2"')
        path.write_text(text.replace('"revision": null', '"revision": "v2"').replace(f"{project}/base", "org/model"))
    made = export(run, "lora", tmp_path / "out", tasks=["parity"])
    apart = loraweave.split(run / "adapter", tmp_path / "apart")
    assert "vllm serve org/model --revision v2 --enable-lora" in (made[0].path / "README.md").read_text()
    expected = said(run, project / "base", "parity")
    for folder in (made[0].path, apart["parity"]):
        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)
        assert loraweave.load(folder).made_of()["weights"] == loraweave.load(run).made_of()["weights"]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changed_the_base_is_refused_and_merges(project, tmp_path, start: str):
    """Its factors by themselves are not what it does to a base that was not changed."""
    run = random_run(project, {"name": "lora", **SMALL, "init_lora_weights": start}, tmp_path / "run")
    with pytest.raises(UserError, match=f"init_lora_weights='{start}', which changes the base"):
        export(run, "lora", tmp_path / "out")
    (each,) = export(run, "merged", tmp_path / "merged")
    assert each.exact


def test_a_layer_that_no_token_came_through_is_named(finished, tmp_path, monkeypatch):
    def without_the_first(model, rows):
        found = mean_weights(model, rows)
        return {layer: found[layer] for layer in list(found)[1:]}

    monkeypatch.setattr(write, "mean_weights", without_the_first)
    (each,) = export(finished({"name": "rlora", **SMALL}), "lora", tmp_path / "out", tasks=["parity"], limit=4)
    (note,) = each.notes
    assert note.startswith("no token came through 1 of 14 layers, model.layers.0.self_attn.q_proj first")
    assert note in json.loads((each.path / "export.json").read_text())["notes"]


def test_an_export_that_says_something_else_is_not_left_behind(finished, tmp_path, monkeypatch):
    from loraweave.export import lora

    written = lora.write_lora

    def wrong(plain, folder, base, name):
        layer = next(iter(plain.pairs))
        plain.pairs[layer] = (plain.pairs[layer][0] * 1.5, plain.pairs[layer][1])
        written(plain, folder, base, name)

    monkeypatch.setattr(lora, "write_lora", wrong)
    with pytest.raises(UserError, match="does not do what the adapter does"):
        export(finished({"name": "lora", **SMALL}), "lora", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_base_of_another_fingerprint_must_be_named(finished, project, tmp_path, monkeypatch):
    write_base(tmp_path / "other", seed=5)
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    config = (run / "run.yaml").read_text()
    assert "model: ./base\n" in config
    (run / "run.yaml").write_text(config.replace("model: ./base\n", f"model: {tmp_path / 'other'}\n"))
    with pytest.raises(UserError, match="--base"):
        export(run, "lora", tmp_path / "out")
    (each,) = export(run, "lora", tmp_path / "out", base=str(tmp_path / "other"))
    assert each.exact
    (note,) = each.notes
    assert note.startswith("the base is not the one that the adapter was trained on")
    monkeypatch.chdir(project)
    (own,) = export(run, "lora", tmp_path / "own", base="base")  # its whole path is kept
    assert own.notes == ()
    for made, base in ((each, tmp_path / "other"), (own, project / "base")):
        record = json.loads((made.path / "export.json").read_text())["base"]
        assert record == {"name": str(base), "fingerprint": fingerprint(load_base(base)[0])}


def test_every_method_with_an_adapter_is_here():
    assert set(ADAPTERS) == {*EXACT, *ROUTED, *BESIDE_BLOCKS, "dora"}
