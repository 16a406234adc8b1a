"""Plots as inline SVG: columns of whole numbers or classes of sizes, bars of names, and a scatter of shapes."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

_WIDTH, _HEIGHT, _FOOT, _HEAD = 340, 170, 22, 14
"""The size of a plot, and the heights of its labels below and above."""
_MOST_COLUMNS, _ROW = 9, 18
_SIDES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Borders between classes of size, as fractions of the image's side."""


def count_columns(title: str, counts: Counter[int], note: str = "") -> str:
    """How often each whole number came, equal ranges of them in a column, the highest hundredth in the last.

    Args:
        title: of the plot.
        counts: by number.
        note: below it.
    """
    total, seen, high = counts.total(), 0, 0
    for value in sorted(counts):
        seen, high = seen + counts[value], value
        if seen >= 0.99 * total:
            break
    low = min(counts, default=0)
    step = max(math.ceil((high - low + 1) / _MOST_COLUMNS), 1)
    columns: Counter[int] = Counter()
    for value, count in counts.items():
        columns[(min(value, high) - low) // step] += count
    starts = range(low, high + 1, step)
    labels = [str(start) if step == 1 else f"{start}-{min(start + step - 1, high)}" for start in starts]
    if counts and max(counts) > high:
        labels[-1] = f"{starts[-1]}+"
    return _columns(title, labels, [columns[number] for number in range(len(labels))], note)


def size_columns(title: str, sizes: Iterable[tuple[float, float]], note: str = "") -> str:
    """How often a region's size, the root of its area, is which fraction of its image's.

    Args:
        title: of the plot.
        sizes: width and height, as fractions of the image's.
        note: below it.
    """
    classes = Counter(sum(math.sqrt(width * height) >= side for side in _SIDES) for width, height in sizes)
    edges = [f"{side * 100:.0f}" for side in _SIDES]
    between = [f"{low}-{high}" for low, high in pairwise(edges)]
    labels = [f"under {edges[0]}", *between, f"over {edges[-1]}"]
    return _columns(title, labels, [classes[number] for number in range(len(labels))], note)


def shape_scatter(title: str, sizes: Sequence[tuple[float, float]], note: str = "") -> str:
    """Width against height of regions.

    Args:
        title: of the plot.
        sizes: width and height, as fractions of the image's.
        note: below it.
    """
    side, x0 = _HEIGHT - _FOOT - 6, 90
    largest = max(map(max, sizes), default=1.0)
    end = next(end for end in (0.1, 0.25, 0.5, 1.0) if end >= largest - 1e-6 or end == 1.0)
    dots = "".join(
        f'<circle cx="{x0 + width / end * side:.1f}" cy="{6 + (1 - height / end) * side:.1f}" r="2"/>'
        for width, height in sizes
    )
    frame = f'<rect class="frame" x="{x0}" y="6" width="{side}" height="{side}"/>'
    words = [
        f'<text x="{x0}" y="{_HEIGHT - 6}">0</text>',
        f'<text x="{x0 + side}" y="{_HEIGHT - 6}" text-anchor="end">{end:.0%}</text>',
        f'<text x="{x0 + side / 2}" y="{_HEIGHT - 6}" text-anchor="middle">width</text>',
        f'<text x="{x0 - 6}" y="{6 + side}" text-anchor="end">0</text>',
        f'<text x="{x0 - 6}" y="16" text-anchor="end">{end:.0%}</text>',
        f'<text x="{x0 - 6}" y="{6 + side / 2}" text-anchor="end">height</text>',
    ]
    return _figure(title, frame + f'<g class="dots">{dots}</g>' + "".join(words), note)


def name_bars(title: str, counts: Counter[str], most: int = 14) -> str:
    """The most frequent names, each with its count; how many more there are stands below.

    Args:
        title: of the plot.
        counts: by name.
        most: how many are shown.
    """
    shown, highest = counts.most_common(most), max(counts.values(), default=1)
    rows = []
    for number, (name, count) in enumerate(shown):
        y, width = number * _ROW, max(150 * count / highest, 1)
        short = name if len(name) <= 20 else name[:19] + "…"
        rows.append(
            f"<g><title>{html.escape(name)}: {count:,}</title>"
            f'<text class="name" x="128" y="{y + 13}" text-anchor="end">{html.escape(short)}</text>'
            f'<rect x="134" y="{y + 3}" width="{width:.1f}" height="{_ROW - 5}" rx="2"/>'
            f'<text x="{138 + width:.1f}" y="{y + 13}">{count:,}</text></g>'
        )
    rest = len(counts) - len(shown)
    note = f"and {rest:,} more, {sum(counts.values()) - sum(dict(shown).values()):,} times" if rest else ""
    return _figure(title, "".join(rows), note, max(len(shown) * _ROW, _ROW))


def _columns(title: str, labels: Sequence[str], counts: Sequence[int], note: str) -> str:
    highest, wide = max([*counts, 1]), _WIDTH / max(len(labels), 1)
    room = _HEIGHT - _FOOT - _HEAD
    parts = []
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        height, middle, broad = room * count / highest, (number + 0.5) * wide, min(wide - 3, 60)
        y = _HEAD + room - height
        parts.append(
            f"<g><title>{html.escape(label)}: {count:,}</title>"
            f'<rect x="{middle - broad / 2:.1f}" y="{y:.1f}" width="{broad:.1f}" height="{height:.1f}" '
            f'rx="2"/><text class="count" x="{middle:.1f}" y="{y - 3:.1f}" text-anchor="middle">{_brief(count)}</text>'
            f'<text x="{middle:.1f}" y="{_HEIGHT - 7}" text-anchor="middle">{html.escape(label)}</text></g>'
        )
    return _figure(title, "".join(parts), note)


def _figure(title: str, inside: str, note: str, height: int = _HEIGHT) -> str:
    below = f"<p>{html.escape(note)}</p>" if note else ""
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">'
        f"{inside}</svg>{below}</figure>"
    )


def _brief(count: int) -> str:
    """1,234 as 1.2k, so that it fits above a column."""
    if count < 1000:
        return str(count or "")
    return f"{count / 1000:.1f}k" if count < 10_000 else f"{count // 1000:,}k"
