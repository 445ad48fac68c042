"""The command line: parse, call, print. `main` is the `loraweave` command."""

from loraweave.cli.app import main

__all__ = ["main"]
