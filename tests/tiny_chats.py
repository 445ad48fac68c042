"""Chat templates of the shapes that real models have, and tokenizers with them."""

from typing import Any

from tiny_tasks import CHATML, make_tokenizer

TEMPLATES = {
    "chatml": CHATML,
    "llama3": (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}"
        "<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
        "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
    ),
    "llama2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
    ),
    "words": (
        "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
    ),
    "none": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'user' %}\n{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
}
CLOSINGS = {"chatml": "<|im_end|>\n", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>\n", "mistral": "</s>"}
CLOSINGS |= {"llama2": " </s>", "words": "</turn>\n", "none": ""}
TURNS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNS += ["<start_of_turn>", "<end_of_turn>"]


def tokenizer_of(kind: str, template: str, special: bool) -> Any:
    """With tokens of their own for the ends of turns, or with none: then they are text like any other."""
    tokenizer = make_tokenizer(kind)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer
