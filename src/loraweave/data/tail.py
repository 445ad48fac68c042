"""The end of a long prompt, for what comes before it would be cut away: a chat's last turn need not read all of it."""

import re
from functools import lru_cache
from typing import Any

CHARACTERS_PER_TOKEN = 8


def last_tokens(prompt: str, tokenizer: Any, tokens: int) -> str:
    """The end of a prompt that has the same last tokens, and more than `tokens` of them; or all of it.

    It begins at one of the tokenizer's special tokens: text is divided there before anything else happens to it, so
    what follows gets the same tokens whatever comes before. Without such a place nothing is taken away.

    Args:
        tokens: how many must stay the same; those that the tokenizer itself puts in front are not counted.
    """
    characters = CHARACTERS_PER_TOKEN * tokens
    if 2 * characters >= len(prompt) or (pattern := _borders(tokenizer)) is None:
        return prompt
    places = [match.start() for match in pattern.finditer(prompt)]
    added = tokenizer.num_special_tokens_to_add(pair=False)
    while 2 * characters < len(prompt):
        place = max((place for place in places if place <= len(prompt) - characters), default=0)
        if place and len(tokenizer.encode(prompt[place:])) > tokens + added:
            return prompt[place:]
        characters *= 2
    return prompt


def _borders(tokenizer: Any) -> re.Pattern[str] | None:
    if not getattr(tokenizer, "is_fast", False):
        return None
    found = tokenizer.added_tokens_decoder.values()
    plain = [t.content for t in found if t.special and not (t.normalized or t.single_word)]
    return _pattern(tuple(plain), tuple(t.content for t in found))


@lru_cache
def _pattern(plain: tuple[str, ...], all_added: tuple[str, ...]) -> re.Pattern[str] | None:
    """Tokens that no other can overlap from the left: where one of them stands, one of them is found."""
    safe = [token for token in plain if token and not any(_overlaps(other, token) for other in all_added)]
    return re.compile("|".join(map(re.escape, safe))) if safe else None


def _overlaps(other: str, token: str) -> bool:
    """Whether `other` may begin before `token` begins, and reach into it; also whether both may begin there."""
    if other != token and other.startswith(token):
        return True
    return any(token.startswith(other[i:]) or other[i:].startswith(token) for i in range(1, len(other)))
