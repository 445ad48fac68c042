"""What a person writes without this package: TRL and PEFT's LoRA on the same rows. Prints seconds as JSON."""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model_path, rows_path, output = sys.argv[1:4]
settings = json.loads(sys.argv[4])
rows = [json.loads(line) for line in Path(rows_path).read_text(encoding="utf-8").splitlines()]
trainer = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
    args=SFTConfig(
        output_dir=output, report_to="none", save_strategy="no", use_cpu=not torch.cuda.is_available(), **settings
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(model_path),
    peft_config=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"),
)
result = trainer.train()
print(json.dumps({"seconds": result.metrics["train_runtime"]}))
