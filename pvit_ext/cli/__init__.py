"""The command ``pvit-ext``, one file a command."""

from pvit_ext.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
