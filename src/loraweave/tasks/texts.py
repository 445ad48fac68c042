"""Reads plain text: its paragraphs, several to a piece, so that a book is many things to learn."""

import re

from loraweave.tasks.rows import FileRows

PIECE = 2_000
"""Characters of one piece: some hundreds of tokens, so that few are cut again, and a share of them can be held out."""

ENDS = (r"(?<=\n\n)(?=[^\n])", r"(?<=\n)", r"(?<=[.!?] )|(?<=[。！？])", r"(?<= )")  # noqa: RUF001
"""Of paragraphs, lines, sentences and words."""


def read_text(text: str, source: str) -> FileRows:
    """The pieces of a text as rows with the one column `text`; together they are the text but for blank lines.

    A piece ends where a paragraph does (at a blank line; else at a line's end, then at a sentence's, then at a space)
    and has at most `PIECE` characters, where words allow it. Line ends become those of Unix.

    Args:
        text: of the file.
        source: its path.

    Returns:
        Rows numbered by the line in which each piece begins.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    rows, numbers, line = [], [], 1
    for piece in pieces(text):
        inner = piece.strip("\n")
        if inner.strip():
            rows.append({"text": inner})
            numbers.append(line + len(piece) - len(piece.lstrip("\n")))
        line += piece.count("\n")
    return FileRows(source, rows, numbers, "line", "text")


def pieces(text: str, longest: int = PIECE) -> list[str]:
    """A text in pieces of at most `longest` characters; joined they are the text."""
    parts = [text]
    for ends in ENDS:
        parts = [finer for part in parts for finer in (re.split(ends, part) if len(part) > longest else [part])]
    made: list[str] = []
    for part in parts:
        if made and len(made[-1]) + len(part) <= longest:
            made[-1] += part
        else:
            made.append(part)
    return made
