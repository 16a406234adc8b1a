"""Which format a source is of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pvit_ext.data.convert.base import FORMATS, Evidence, SourceError
from pvit_ext.data.convert.peek import Peek

SURE = 0.5
"""The confidence from which on a source is taken for what it looks like."""
_LOOKED_AT, _NAMED = 200, 5
_ENDINGS = (".json", ".jsonl", ".xml", ".yaml", ".yml", ".p", ".parquet")


class Found(NamedTuple):
    """A format that a source may be of."""

    name: str
    evidence: Evidence


def detect(source: str | Path) -> list[Found]:
    """All formats that a source may be of, the likeliest first.

    Args:
        source: file or folder.

    Raises:
        SourceError: where there is nothing at this path.
    """
    path = Path(source)
    if not path.exists():
        raise SourceError(f"{source}: there is no such file or folder")
    peek = Peek(path)
    found = [Found(name, evidence) for name in FORMATS.names() if (evidence := FORMATS.require(name).detect(peek))]
    return sorted(found, key=lambda one: (-one.evidence.confidence, one.name))


def resolve(name: str, source: str | Path) -> str:
    """The format to read a source with: the one that was asked for, or for ``auto`` the one it seems to be.

    Args:
        name: of a format, or ``auto``.
        source: file or folder.

    Raises:
        SourceError: for a source that is of no known format, or that is of another format, which is named.
    """
    if name != "auto":
        FORMATS.require(name)
    found = detect(source)
    if name != "auto":
        other = found[0] if found else None
        own = next((one.evidence.confidence for one in found if one.name == name), 0.0)
        if other and other.name != name and other.evidence.confidence >= SURE > own:
            raise SourceError(
                f"{source} is not {name}: it looks like {other.name}, it has {other.evidence.why}; "
                f"say `pvit-ext data convert {other.name} {source}`"
            )
        return name
    if not found:
        raise SourceError(_unknown(source))
    if len(found) > 1 and found[1].evidence.confidence == found[0].evidence.confidence:
        same = [one for one in found if one.evidence.confidence == found[0].evidence.confidence]
        names = " or ".join(one.name for one in same)
        raise SourceError(f"{source} may be {names}; say which instead of auto")
    return found[0].name


def describe(source: str | Path, found: Sequence[Found]) -> str:
    """What ``--detect`` prints: a line for each format that a source may be of, or one that says that there is none.

    Args:
        source: file or folder.
        found: by :func:`detect`.
    """
    if not found:
        return _unknown(source)
    return "\n".join(f"{one.name} ({one.evidence.confidence:.0%}): {source} has {one.evidence.why}" for one in found)


def _unknown(source: str | Path) -> str:
    """What to do with a source of no format: a folder may hold files that are of one."""
    peek = Peek(Path(source))
    if "conversations" in peek.item:
        return f"{source} has conversations, as a training file: `pvit-ext data check` says whether it is one"
    inside = [name for name in peek.files if name.endswith(_ENDINGS)][:_LOOKED_AT]
    known = ((name, found[0].name) for name in inside if (found := detect(peek.path / name)))
    if named := [f"{name} ({format_name})" for name, format_name in islice(known, _NAMED)]:
        return f"{source} is of no format itself, but files in it are; give one of them: {', '.join(named)}"
    return f"{source} is of no format that is known here: {', '.join(FORMATS.names())}"
