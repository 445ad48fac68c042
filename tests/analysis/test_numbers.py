"""The whole of analysis.json from real runs, and what is refused or noted instead of guessed."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from loraweave import UserError
from loraweave.analysis.numbers import analyze, depth_of, module_types, save
from loraweave.analysis.subjects import _names, open_runs
from loraweave.commands import Analysis

SECTIONS = """spectra spectrum_summary subspaces heads head_map gates routing routing_summary tokens gradients transfer
training""".split()
TASKS = ["parity", "double", "notes"]


def walk(value):
    """All numbers in nested lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    return [x for one in value for x in walk(one)] if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def analysis(runs):
    return analyze([runs[name] for name in ("lora", "rlora", "mtllora", "parity-alone")], sample=4, command="typed")


def test_every_section_is_there_and_valid_json(analysis):
    assert analysis["format"] == 1
    assert analysis["command"] == "typed"
    assert analysis["versions"]["torch"]
    again = json.loads(json.dumps(analysis, allow_nan=False))
    assert {key: again[key] for key in SECTIONS} == {key: analysis[key] for key in SECTIONS}
    for number in walk(analysis["spectra"]):
        if isinstance(number, float):
            assert number == float(f"{number:.6g}")
    assert [section for section in SECTIONS if not analysis[section]] == ["gates"]
    assert any("MultiLoRA" in note for note in analysis["notes"])


def test_runs_say_what_they_are(analysis, runs):
    lora, rlora, mtllora, alone = analysis["runs"]
    assert (lora["name"], lora["kind"], lora["rank"], lora["num_heads"], lora["seed"]) == (
        "lora",
        "adapter",
        8,
        None,
        0,
    )
    assert (rlora["rank"], rlora["num_heads"]) == (4, 5)
    assert mtllora["tasks"] == TASKS
    assert alone["tasks"] == ["parity"]
    assert lora["base"] == str(runs["base"])
    sizes = 2 * [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert lora["trainable_parameters"] == sum(8 * (d_in + d_out) for d_in, d_out in sizes)


def test_spectra_have_a_row_per_layer_and_per_task_where_tasks_have_their_own(analysis):
    of = {name: [row for row in analysis["spectra"] if row["run"] == name] for name in ("lora", "mtllora")}
    assert len(of["lora"]) == 14
    assert {row["task"] for row in of["lora"]} == {None}
    assert len(of["mtllora"]) == 14 * 3
    assert {row["task"] for row in of["mtllora"]} == set(TASKS)
    assert {row["depth"] for row in of["lora"]} == {0, 1}
    assert {row["module"] for row in analysis["spectrum_summary"]} == {
        *"q_proj k_proj v_proj o_proj gate_proj up_proj down_proj all".split()
    }


def test_overlap_is_shown_for_every_pair_module_and_side(analysis):
    assert len(analysis["subspaces"]) == 6 * 7 * 2
    for pair in analysis["subspaces"]:
        assert len(pair["by_layer"]) == 2
        assert all(-1e-9 <= cell <= 1 + 1e-9 for row in pair["grid"] for cell in row)


def test_routing_tokens_and_heads_are_of_the_runs_that_have_them(analysis):
    assert {row["run"] for row in analysis["routing"]} == {"rlora", "mtllora"}
    assert {row["run"] for row in analysis["tokens"]} == {"rlora"}
    assert {row["run"] for row in analysis["heads"]} == {"rlora", "mtllora"}
    assert all((row["since_start"] is not None) == (row["run"] == "rlora") for row in analysis["heads"])
    summary = next(row for row in analysis["routing_summary"] if row["run"] == "mtllora")
    assert summary["tasks"] == TASKS
    assert [sum(row) for row in summary["usage"]] == pytest.approx([1, 1, 1], abs=1e-5)


def test_what_was_logged_is_taken_over(analysis, runs):
    lines = [json.loads(line) for line in (runs["lora"] / "metrics.jsonl").read_text().splitlines()]
    entry = next(entry for entry in analysis["training"] if entry["run"] == "lora")
    expected = [(line["step"], line["loss/double"]) for line in lines if "loss/double" in line]
    assert [tuple(point) for point in entry["loss"]["double"]] == [
        (step, pytest.approx(loss, rel=1e-5)) for step, loss in expected
    ]
    assert [step for step, _ in entry["learning_rate"]] == [1, 2, 3, 4, 5, 6]
    assert {task["task"] for task in entry["mixture"]} == set(TASKS)
    recorded = json.loads((runs["lora"] / "gradients.json").read_text())
    shown = [row for row in analysis["gradients"] if row["run"] == "lora"]
    assert [row["share"] for row in shown] == [0, 0.5, 1]
    assert shown[2]["cosine"][0][1] == pytest.approx(recorded["steps"][2]["cosine"][0][1], rel=1e-5)


def test_transfer_sets_runs_on_one_task_beside_those_on_several(analysis, runs):
    (table,) = analysis["transfer"]
    assert (table["method"], table["base"]) == ("lora", str(runs["base"]))
    rows = {row["run"]: row for row in table["rows"]}
    assert set(rows) == {"lora", "parity-alone"}
    assert set(rows["parity-alone"]["losses"]) == {"parity"}
    lines = [json.loads(line) for line in (runs["lora"] / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval_loss/parity" in line][-1]
    assert rows["lora"]["losses"]["parity"] == pytest.approx(last["eval_loss/parity"], rel=1e-5)


def test_one_adapter_alone_says_what_is_missing(saved):
    found = analyze([saved("multilora")[1]], sample=2)
    assert found["runs"][0]["method"] == "multilora"
    assert found["gates"][0]["norms"]
    notes = " ".join(found["notes"])
    for words in ("name at least two", "do not hold what was logged", "no run here has a token router"):
        assert words in notes


def test_dora_is_shown_by_its_low_rank_part_and_says_so(saved):
    found = analyze([saved("dora")[1], saved("lora")[1]])
    assert [run["method"] for run in found["runs"]] == ["dora", "lora"]
    notes = [note for note in found["notes"] if note.startswith("dora:")]
    assert len(notes) == 1
    assert "low-rank part alone" in notes[0]


def test_an_adapter_with_a_router_alone_is_taken_at_uniform_weights(saved):
    found = analyze([saved("hydralora")[1]], sample=2)
    notes = " ".join(found["notes"])
    assert "no record of its routing, so its heads are taken to weigh alike" in notes
    assert "an adapter alone does not know its tasks' data" in notes


def test_adapters_of_different_bases_are_compared_where_layers_agree(saved):
    small = saved("lora", folder="small")[1]
    other = saved("lora", architecture="gpt2", folder="other")[1]
    found = analyze([small, other])
    assert found["subspaces"] == []
    assert any("no layer in common" in note for note in found["notes"])

    folder = saved("lora", folder="resized")[1]
    tensors = load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    save_file({**tensors, key: torch.randn(40, 3)}, folder / "adapter_model.safetensors")
    (folder / "base.json").write_text('{"name": "another", "fingerprint": "1"}')
    found = analyze([small, folder])
    notes = " ".join(found["notes"])
    assert "different bases" in notes
    assert "1 layers differ in size, model.layers.0.self_attn.q_proj first" in notes
    left = {pair["module"]: pair for pair in found["subspaces"] if pair["side"] == "left"}
    assert [entry["layer"] for entry in left["q_proj"]["by_layer"]] == ["model.layers.1.self_attn.q_proj"]
    right = {pair["module"]: pair for pair in found["subspaces"] if pair["side"] == "right"}
    assert len(right["q_proj"]["by_layer"]) == 2  # what the layers read is still of one size


def test_a_comparison_stands_for_the_runs_of_its_table(runs, tmp_path):
    record = [{"adapter": None}, {"adapter": "runs/lora/adapter"}, {"adapter": "runs/full/model"}]
    (tmp_path / "results.json").write_text(json.dumps({"runs": record}))
    for name in ("lora", "full", "rlora"):  # the last, say, of a learning rate that was not chosen
        shutil.copytree(runs[name], tmp_path / "runs" / name)
    assert [run.name for run in open_runs([tmp_path])] == ["lora", "full"]
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="no run of this comparison is finished"):
        open_runs([tmp_path])


def test_an_adapter_that_was_evaluated_by_itself_is_no_comparison(runs, tmp_path):
    folder = shutil.copytree(runs["lora"] / "adapter", tmp_path / "mine")
    (folder / "results.json").write_text(json.dumps({"format": 1, "evaluations": []}))
    assert [run.name for run in open_runs([folder])] == ["mine"]


def test_among_many_runs_a_dozen_are_compared(saved):
    folders = [saved("lora", folder=f"run{i}", target_modules=["q_proj"])[1] for i in range(14)]
    found = analyze(folders)
    assert {name for pair in found["subspaces"] for name in pair["runs"]} == {*(f"run{i}" for i in range(11)), "run13"}
    assert any("14 would make 91 pairs" in note for note in found["notes"])
    assert len({row["run"] for row in found["spectra"]}) == 14


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    copy = shutil.copytree(runs["lora"], tmp_path / "lora")
    assert [run.name for run in open_runs([runs["lora"], copy])] == [runs["lora"].parent.name, tmp_path.name]
    (by_adapter,) = open_runs([copy / "adapter"])
    assert (by_adapter.name, by_adapter.config) == ("lora", None)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["lora-seed0-lr0.001", "rlora-seed0-lr0.002"], ["lora", "rlora"]),
        (["lora-seed0-lr0.001", "lora-seed1-lr0.001", "full-seed0"], ["lora-seed0", "lora-seed1", "full-seed0"]),
        (["lora-seed0", "lora-seed0-lr0.001"], ["lora", "lora-lr0.001"]),
        (["lora-seed0", "mine"], ["lora-seed0", "mine"]),
        (["a/run/adapter", "b/run/adapter"], ["a", "b"]),
        (["lora-seed0"], ["lora-seed0"]),
    ],
)
def test_names_say_only_what_differs(folders, names):
    assert _names([Path("/somewhere") / folder for folder in folders]) == names


def test_what_cannot_be_analysed_is_one_line(runs, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    damaged = shutil.copytree(runs["lora"], tmp_path / "damaged")
    (damaged / "adapter" / "adapter_model.safetensors").write_bytes(b"12345678")
    unfinished = shutil.copytree(runs["lora"], tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    without = shutil.copytree(saved("lora")[1], tmp_path / "without")
    (without / "adapter_model.safetensors").unlink()
    foreign = shutil.copytree(saved("lora")[1], tmp_path / "foreign")
    (foreign / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    for folder, words in (
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "empty", "the folder is empty"),
        (tmp_path / "other", "holds neither a run nor an adapter"),
        (damaged, r"adapter_model\.safetensors is not as it was written"),
        (unfinished, "did not finish"),
        (without, r"holds no weights \(adapter_model.safetensors\)"),
        (foreign, "an adapter of the method IA3"),
        (runs["base"], "a whole model; compare with it by --full"),
    ):
        with pytest.raises(UserError, match=words) as error:
            analyze([folder])
        assert str(folder) in str(error.value)
    with pytest.raises(UserError, match="named twice"):
        analyze([runs["lora"], runs["lora"]])


def test_types_of_modules_are_their_last_names_unless_these_mean_two_things():
    llama = module_types(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"])
    assert set(llama.values()) == {"up_proj"}
    gpt2 = module_types(["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.mlp.c_fc"])
    assert list(gpt2.values()) == ["attn.c_proj", "mlp.c_proj", "c_fc"]
    assert [depth_of(name) for name in ("model.layers.11.mlp.up_proj", "lm_head")] == [11, None]


def test_a_loss_that_is_no_number_is_null(runs, tmp_path):
    run = shutil.copytree(runs["lora"], tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "loss/parity": math.nan}
    (run / "metrics.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    (entry,) = analyze([run])["training"]
    assert [1, None] in [list(point) for point in entry["loss"]["parity"]]


def test_an_adapter_of_embeddings_alone_has_a_report_that_says_so(tiny_model, tmp_path):
    base = tiny_model("llama")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "words")
    found = analyze([tmp_path / "words"])
    (row,) = Analysis(save(found, tmp_path / "out").parent, found).overview
    assert (row.rank, row.effective_rank, row.top_share) == (None, None, None)
    assert any("tensors beside the low-rank updates are left out" in note for note in found["notes"])
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_task_that_was_not_trained_is_said_and_no_part_of_the_means(saved):
    _, folder = saved("own")
    (before,) = (row for row in analyze([folder])["spectrum_summary"] if row["module"] == "all")
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("weave_B"):
            tensor[1] = 0
    save_file(tensors, folder / "adapter_model.safetensors")
    found = analyze([folder])
    (after,) = (row for row in found["spectrum_summary"] if row["module"] == "all")
    assert after["effective_rank"] == pytest.approx(before["effective_rank"], rel=0.3)
    assert any(note.startswith("own: no update at all for b in ") for note in found["notes"])
