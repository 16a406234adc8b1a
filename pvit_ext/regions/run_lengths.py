"""COCO's run lengths, plain and compressed: they go column by column, and the first run is background."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2 * 89_478_485
"""Pillow's own limit for images, so that a few characters of run lengths cannot claim all memory."""
_MOST_GROUPS = 7
"""Characters of one count: 35 bits, beyond any image."""


class RunLengths(NamedTuple):
    """A mask as it stands in a file; 4 bytes a run, not Python's 30.

    Args:
        height, width: of the mask, pixels.
        counts: lengths of runs of background and region in turn, down the columns.
    """

    height: int
    width: int
    counts: array[int]

    def decode(self) -> NDArray[np.bool_]:
        """The mask, bool (H, W)."""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.width, self.height).T


def parse_run_lengths(value: Any) -> RunLengths:
    """Read ``{"size": [height, width], "counts": ...}``; counts is a list, or the text that pycocotools and SAM write.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(value, dict) or set(value) != {"size", "counts"}:
        raise ValueError('run lengths are {"size": [height, width], "counts": [...] or compressed text}')
    size, counts = value["size"], value["counts"]
    size = list(size) if isinstance(size, tuple) else size
    if not _naturals(size) or len(size) != 2:
        raise ValueError("size is [height, width], neither negative")
    height, width = size
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"the mask is {width}x{height}; it must have 1 to {MAX_PIXELS:,} pixels")
    if isinstance(counts, (str, bytes)):
        counts = decompress(counts)
    if not _naturals(counts):
        raise ValueError("counts is a list of run lengths, none negative, or compressed text")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths sum to {sum(counts)}, the mask is {width}x{height}")
    if not any(counts[1::2]):
        raise ValueError("mask is empty, mark at least one pixel")
    return RunLengths(height, width, array("I", counts))


def decompress(text: str | bytes) -> list[int]:
    """Counts from their compressed form: 5 bits a character, low bits first, as differences to the count two before.

    Source: ``rleFrString`` of cocodataset/cocoapi, common/maskApi.c.

    Raises:
        ValueError: for text that is no such form.
    """
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(f"counts {text[:40]!r} are no compressed run lengths, as pycocotools writes them")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if groups.max() > _MOST_GROUPS:
        raise ValueError(f"counts {text[:40]!r} holds a run longer than any image")
    index = np.arange(len(codes)) - np.repeat(starts, groups)  # of a character in its count
    values = np.add.reduceat((codes & 31) << 5 * index, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * groups, 0)  # the sign
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    counts: list[int] = values.tolist()
    return counts


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
