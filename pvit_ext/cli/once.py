"""The parser of every command: an option is spelled out, and one that takes a value takes it once."""

from __future__ import annotations

import argparse
from typing import Any

REPEATED = "may be repeated"
"""In the help of options that add up."""


class Parser(argparse.ArgumentParser):
    """argparse would let the last of two values win, and take ``--image`` for ``--image-folder``, without a word.

    Its subcommands' parsers are of this class too, and so are the actions of its groups. ``action="append"`` adds up.

    Args:
        keywords: of argparse's parser.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **keywords})
        for name in (None, "store"):
            self.register("action", name, _StoreOnce)
        self.register("action", argparse.BooleanOptionalAction, _YesOrNoOnce)


class _Once(argparse.Action):
    """Refuses a second time on the same command line, which is known by the namespace that it fills."""

    advice = ""
    _filled: argparse.Namespace | None = None

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if option_string is not None and self._filled is namespace:
            raise argparse.ArgumentError(
                self, f"is given twice, and only one of them would count: give it once{self.advice}"
            )
        self._filled = namespace
        super().__call__(parser, namespace, values, option_string)


class _StoreOnce(_Once, argparse._StoreAction):
    """``action="store"``.

    Args:
        advice: where several values go, if anywhere; the end of the error.
    """

    def __init__(self, *arguments: Any, advice: str = "", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.advice = advice and f"; {advice}"


class _YesOrNoOnce(_Once, argparse.BooleanOptionalAction):
    """``--NAME`` and ``--no-NAME``."""
