"""Whether a model has a row for every token that its tokenizer may give it; a padding token, where there is none."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.errors import UserError

_WITHOUT_ROW = "loraweave_without_row"


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
    """Compare a tokenizer with the embedding of a model, which may be on the meta device.

    Special tokens without a row are let be: the text models of a family often come with the tokenizer of those that
    see or hear, and never meet its places for images. They are noted on the tokenizer, for `check_ids`.

    Raises:
        UserError: the tokenizer gives ordinary text, the padding, or the start or end of a text an id without a row.
    """
    embedding = model.get_input_embeddings()
    rows = getattr(getattr(embedding, "weight", None), "shape", (None,))[0]
    vocabulary = tokenizer.get_vocab()
    beyond = {} if rows is None else {index: token for token, index in vocabulary.items() if index >= rows}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    always = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    if any(index in always or not (index in added and added[index].special) for index in beyond):
        raise UserError(
            f"{source}: the tokenizer has {1 + max(beyond):,} tokens, and the model's embedding {rows:,} rows: use the "
            "tokenizer that the model was made with, or save the model with its embedding resized"
        )
    setattr(tokenizer, _WITHOUT_ROW, beyond)


def fill_padding(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
    """Pad with the end of a text where a tokenizer names nothing to pad with.

    Raises:
        UserError: it has no end of a text either.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {str(source)!r} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token


def without_row(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The special tokens, by their ids, that the model has no row for, as far as `check_vocabulary` has looked."""
    return getattr(tokenizer, _WITHOUT_ROW, {})


def check_ids(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where one of the ids that a text became is a special token without a row."""
    if (beyond := without_row(tokenizer)) and not beyond.keys().isdisjoint(ids):
        token = next(beyond[index] for index in ids if index in beyond)
        raise UserError(f"the text holds {token!r}, a special token that the model has no row in its embedding for")
