"""How fast training is, against PEFT's LoRA, the frozen layer and loops over heads: `python -m speed`."""
