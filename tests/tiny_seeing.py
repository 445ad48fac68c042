"""A small base that also sees."""

import torch
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, PreTrainedModel, SiglipVisionConfig


def seeing() -> PreTrainedModel:
    """A small Gemma 3: a vision tower with a pooling head, a projector, a language model."""
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    ids = {"image_token_index": 258, "boi_token_index": 257, "eoi_token_index": 256}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **ids)
    config.pad_token_id = 0
    return AutoModelForCausalLM.from_config(config)
