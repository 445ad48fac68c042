"""104: from a multi-task adapter to a merged model, and to one plain LoRA per task that others can load.

    python examples/104_plain_lora.py [FOLDER] [STEPS]

Both are exact for every method whose update does not depend on x: multilora and mlora as they are, mtllora and moelora
for each task. hydralora and rlora weigh their heads token by token and say that they cannot.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel, save_as_lora
from small_tasks import write_tasks
from transformers import AutoModelForCausalLM

import loraweave
from loraweave.bases import resolve_base
from loraweave.export import export

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/104")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

settings = {"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3}
config = loraweave.RunConfig(model="nano", method="mtllora", tasks=write_tasks(folder / "data"), train=settings)
result = loraweave.train(config, folder / "run")


def base() -> torch.nn.Module:
    """The untouched base, anew."""
    return AutoModelForCausalLM.from_pretrained(resolve_base("nano"), dtype=torch.float32)


adapted = PeftModel.from_pretrained(base(), result.adapter).eval()
prompt = torch.tensor([[5, 6, 7, 8]])
for task in ("twice", "last", "shout"):
    with torch.no_grad(), loraweave.task(adapted, task):
        wanted = adapted(prompt).logits
        save_as_lora(folder / task, adapted, rank=8)  # r of the adapter: MTL-LoRA folds to its own rank
    plain = PeftModel.from_pretrained(base(), folder / task).eval()
    with torch.no_grad():
        found = plain(prompt).logits
    kind = plain.peft_config["default"].peft_type.value
    print(f"{task}: a plain {kind} in {folder / task}, logits differ by {(found - wanted).abs().max():.1e} at most")

with loraweave.task(adapted, "shout"), torch.no_grad():
    wanted = adapted(prompt).logits
    merged = adapted.merge_and_unload()  # an ordinary model of transformers, for one task
merged.save_pretrained(folder / "merged")
with torch.no_grad():
    print(f"merged for shout: logits differ by {(merged(prompt).logits - wanted).abs().max():.1e} at most")

# The same in one call, or `loraweave export RUN --to lora --output FOLDER`: written aside, read back, compared.
# Also to "merged", and to "gguf" for llama.cpp.
for made in export(result.folder, "lora", folder / "exported", tasks=["shout"]):
    print(f"exported for {made.name}: rank {made.rank}, logits differ by {made.largest:.1e} at most")
