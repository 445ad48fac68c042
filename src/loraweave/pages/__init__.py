"""What the HTML pages of the project share: layout, style sheet, colours and figures."""

from loraweave.pages.layout import render

__all__ = ["render"]
