"""`loraweave export`: what it prints, and that it ends with one line where it cannot."""

import json

from peft import PeftModel
from tiny_runs import SMALL, random_run
from tiny_shapes import write_shape
from transformers import AutoModelForCausalLM


def test_a_lora_is_written_and_its_line_for_vllm_printed(command, project, trained, tmp_path):
    code, out, _ = command("export", trained, "--to", "lora", "--output", tmp_path / "out")
    assert code == 0
    assert "exact" in out
    assert f"lora  {tmp_path / 'out'}" in out
    assert "vllm serve" in out
    assert f"--lora-modules out={tmp_path / 'out'}" in out
    assert json.loads((tmp_path / "out" / "export.json").read_text())["exact"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(project / "base"), tmp_path / "out")
    assert model.peft_config["default"].peft_type == "LORA"


def test_a_folder_for_each_task_and_all_in_one_line(command, project, tmp_path):
    run = random_run(project, {"name": "moelora", **SMALL}, tmp_path / "run")
    code, out, _ = command("export", run, "--to", "lora", "--output", tmp_path / "out")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["double", "notes", "parity"]
    assert "--max-lora-rank 32 --max-loras 3" in out
    assert all(f" {task}={tmp_path / 'out' / task}" in out for task in ("double", "notes", "parity"))


def test_what_a_router_costs_is_printed(command, project, tmp_path):
    run = random_run(project, {"name": "rlora", **SMALL}, tmp_path / "run")
    code, out, err = command("export", run, "--to", "lora", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "--uniform" in err
    code, out, _ = command("export", run, "--to", "lora", "--task", "parity", "--limit", 4, "--output", tmp_path / "o")
    assert code == 0
    for word in ("KL", "loss", "score", "→"):
        assert word in out
    assert "100.00%" not in out  # nothing is cut, and that is not what it costs


def test_a_gguf_adapter_and_model(command, project, trained, tmp_path):
    base = write_shape(tmp_path / "base", "llama")
    run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / "run", base=base)
    assert command("export", run, "--to", "gguf", "--output", tmp_path / "adapter")[0] == 0
    assert command("export", run, "--to", "gguf", "--merged", "--output", tmp_path / "model")[0] == 0
    assert (tmp_path / "adapter" / "adapter.gguf").is_file()
    assert (tmp_path / "model" / "model.gguf").is_file()
    code, _, err = command("export", trained, "--to", "lora", "--merged", "--output", tmp_path / "none")
    assert (code, "--merged belongs to --to gguf" in err) == (2, True)
