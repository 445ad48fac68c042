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
THINKING = {  # of models that think before they answer
    "empty": (  # Qwen 3
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m.role == 'assistant' and loop.last %}{% set c = m['content'] %}{% set t = m.reasoning_content or '' %}"
        "{% if not t and '</think>' in c %}{% set t = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "<think>\n{{ t }}\n</think>\n\n{{ c }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "opened and cut": (  # DeepSeek R1, QwQ
        "{% for m in messages %}<|{{ m['role'] }}|>"
        "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}</s>{% else %}{{ m['content'] }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    ),
    "as it stands": (  # Olmo 3
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    ),
}
THINKING["opened and kept"] = THINKING["empty"].replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
TURNS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNS += ["<start_of_turn>", "<end_of_turn>"]


def tokenizer_of(kind: str, template: str, special: bool) -> Any:
    """With tokens of their own for the ends of turns, or with none: then they are text like any other."""
    tokenizer = make_tokenizer(kind)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def thinking_tokenizer(kind: str, template: str) -> Any:
    """With the tags of thoughts as tokens, which are no special ones."""
    tokenizer = make_tokenizer(kind)
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKING[template]
    return tokenizer
