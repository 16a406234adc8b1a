"""transformers' parser of flags, which says what an unknown one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import transformers


class FlagParser(transformers.HfArgumentParser):
    """HfArgumentParser with an error of one line for what it does not know."""

    def parse_args_into_dataclasses(
        self, args: Any = None, return_remaining_strings: bool = False, *more: Any, **keywords: Any
    ) -> tuple[Any, ...]:
        """Parse as transformers does.

        Raises:
            ValueError: naming each unknown flag, and the known one that is most like it.
        """
        *parsed, unknown = super().parse_args_into_dataclasses(args, True, *more, **keywords)
        if return_remaining_strings:
            return (*parsed, unknown)
        if unknown:
            raise ValueError(_describe(unknown, self._option_string_actions))
        return tuple(parsed)


def _describe(words: list[str], known: Iterable[str]) -> str:
    """What to say of words that no flag took: unknown flags with their values, or values too many."""
    flags = [word for word in words if word.startswith("--")]
    if not flags:
        return f"{' '.join(map(repr, words))} belong to no flag: each follows the --flag that it is for"
    near = [(flag, difflib.get_close_matches(flag, list(known), 1)) for flag in flags]
    named = ", ".join(f"{flag} ({meant[0]}?)" if meant else flag for flag, meant in near)
    return f"unknown flag{'s' * (len(flags) > 1)} {named}: python -m pvit_ext.train --help lists them all"
