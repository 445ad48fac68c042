"""An answer's tokens as text, piece by piece: no half letters, and nothing of what ends an answer."""

from collections.abc import Sequence
from typing import Any

from loraweave.tasks.turn import Turn

HALF = "\ufffd"
"""What a tokenizer writes for bytes that are no whole letter yet."""


class Words:
    """Text that grows with its tokens.

    Args:
        tokenizer: whose tokens they are.
        stops: texts before which the answer ends.
        turn: what the chat template writes around an answer, which is no part of it.
        before: the last tokens of what is gone on from, so that a space at the beginning is seen.

    Attributes:
        stopped: whether the answer has ended at one of `stops`, or where its turn ends with words.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str] = (), turn: Turn | None = None, before: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._opening, self._space, self._end = (turn.opening, turn.space, turn.words) if turn else ("", "", "")
        self._ids = list(before)
        while HALF in self._decoded(self._ids):  # bytes of half a letter spoil what is decoded with them
            del self._ids[0]
        self._known, self._read = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def take(self, tokens: Sequence[int]) -> str:
        """More tokens; returns the text that is certain now and was not before."""
        self._ids.extend(tokens)
        text = self._new()
        if not text or text.endswith(HALF):
            return ""
        self._known, self._read = self._read, len(self._ids)
        return self._certain(text)

    def rest(self) -> str:
        """What is left when no token comes any more."""
        text = self._certain(self._new())
        left, self._held = self._held.removesuffix(self._space), ""
        return text if self.stopped else text + left

    def _new(self) -> str:
        """The text of the tokens that were not read yet: decoded with some before them, since a token may be written
        in another way at the beginning."""
        before = self._decoded(self._ids[self._known : self._read])
        return self._decoded(self._ids[self._known :])[len(before) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(ids), **how)) if ids else ""

    def _certain(self, text: str) -> str:
        """What of the text that is held, and of more, belongs to the answer whatever comes next."""
        if self.stopped:
            return ""
        self._held += text
        if self._opening:
            if self._opening.startswith(self._held) and self._held != self._opening:
                return ""
            self._held, self._opening = self._held.removeprefix(self._opening), ""
        found = [(self._held.find(stop), stop) for stop in (*self._stops, self._end) if stop and stop in self._held]
        if found:  # the one that is complete first, however the text came
            place, stop = min(found, key=lambda one: (one[0] + len(one[1]), one[0]))
            said, self._held, self.stopped = self._held[:place], "", True
            return said.removesuffix(self._space) if stop == self._end else said
        keep = max((_begun(self._held, end) for end in (*self._stops, self._end, self._space + self._end)), default=0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said


def _begun(text: str, end: str) -> int:
    """How many letters at the end of a text may be the beginning of `end`."""
    return next((n for n in range(min(len(end), len(text)), 0, -1) if text.endswith(end[:n])), 0)
