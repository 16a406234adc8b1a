"""The page of a training file: what it holds in numbers and plots, and a sample of its records to look through."""

from __future__ import annotations

import html
import random
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pvit_ext.data.html_page import write_html_page
from pvit_ext.data.index import load_scan
from pvit_ext.data.records import RecordError, Records
from pvit_ext.data.scan import Scan
from pvit_ext.data.schema import task_of
from pvit_ext.data.show import plots
from pvit_ext.data.show.card import as_word, kinds_of, make_card
from pvit_ext.data.show.statistics import Statistics
from pvit_ext.regions.image import ImageError, image_size
from pvit_ext.regions.region import RegionError

PAGE = "index.html"
_MEASURED = 2000
"""Most records whose images' sizes are read for the plots of region sizes."""
_DOTS = 2000
"""Most regions in the scatter."""
_THREADS, _PROBLEMS = 4, 20


@dataclass(frozen=True)
class ShowOptions:
    """What to show.

    Args:
        limit: records on the page.
        seed: draws them where the file has more.
        side: longer side of an image, pixels.
    """

    limit: int = 100
    seed: int = 0
    side: int = 512


def show(path: Path, image_folder: Path, out: Path, options: ShowOptions) -> tuple[Path, int, int]:
    """Write the page of a training file.

    Args:
        path: JSON array or JSON Lines.
        image_folder: of its images.
        out: folder for ``index.html``.
        options: what to show.

    Returns:
        the page, how many records it shows, and how many bad ones the file has.

    Raises:
        ValueError: for a limit or side below 1.
        RecordError: when the file has no good record.
    """
    if options.limit < 1 or options.side < 16:
        raise ValueError(f"--limit is 1 or more and --side 16 or more, got {options.limit} and {options.side}")
    if not image_folder.is_dir():
        raise NotADirectoryError(f"the image folder {image_folder} is not there, or is no folder")
    found = load_scan(path, str(image_folder))
    good = [row for row in range(len(found.rows)) if row not in found.bad]
    if not good:
        raise RecordError(*(one.problem for one in found.bad.values()))
    records = Records(path, str(image_folder), found)
    statistics = _measure(records, good, options.seed)
    drawn = sorted(random.Random(options.seed).sample(good, min(options.limit, len(good))))
    chosen = [records[row] for row in drawn]
    with ThreadPoolExecutor(_THREADS) as pool:
        cards = list(_watched(pool.map(partial(make_card, side=options.side), chosen), len(chosen), "drawing"))
    tasks = Counter(task_of(one.data) for one in chosen)
    kinds = Counter(kind for one in chosen for kind in kinds_of(one))
    body = (
        _head(path, image_folder, found, statistics)
        + _plots(statistics, len(good), options.seed)
        + _tools(tasks, kinds, len(chosen), len(good), options.seed)
        + f'<main id="cards">{"".join(cards)}<p id="nothing" hidden>No record on this page fits.</p></main>'
    )
    here = Path(__file__)
    style, script = (here.with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    write_html_page(out / PAGE, f"{path.name} · pvit-ext data show", style, body, script)
    return out / PAGE, len(chosen), len(found.bad)


def _measure(records: Records, good: list[int], seed: int) -> Statistics:
    """Counts over all good records, sizes of regions over some."""
    statistics = Statistics()
    measured = set(random.Random(seed).sample(good, min(_MEASURED, len(good))))
    for row in _watched(good, len(good), "counting"):
        record = records[row]
        statistics.add(record)
        if row in measured and record.specs:
            try:
                statistics.add_sizes(record, [image_size(file) for file in record.image_files])
            except (ImageError, RegionError, OSError):
                continue  # its card says what is wrong, and so does `pvit-ext data check`
    return statistics


def _watched(things: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    from tqdm import tqdm

    watched: Iterable[Any] = tqdm(things, desc=name, total=total, unit="record")
    return watched


def _head(path: Path, image_folder: Path, found: Scan, statistics: Statistics) -> str:
    tiles = {
        "records": found.summary.records,
        "images": statistics.images,
        f"regions ({', '.join(statistics.kinds)})" if len(statistics.kinds) == 1 else "regions": statistics.regions,
        "questions": statistics.words.total(),
    }
    shown = "".join(f"<div><b>{value:,}</b>{name}</div>" for name, value in tiles.items())
    return (
        f"<header class=page><h1>{html.escape(path.name)}</h1><p>{html.escape(str(path))}, images in "
        f'{html.escape(str(image_folder))}</p><div class="tiles">{shown}</div>{_bad(found)}</header>'
    )


def _bad(found: Scan) -> str:
    if not found.bad:
        return ""
    problems = [one.problem for one in found.bad.values()]
    more = f"\n... and {len(problems) - _PROBLEMS:,} more" if len(problems) > _PROBLEMS else ""
    listed = html.escape("\n".join(problems[:_PROBLEMS]) + more)
    return (
        f'<details class="bad"><summary>{len(problems):,} bad records are not counted and not shown</summary>'
        f"<pre>{listed}</pre></details>"
    )


def _plots(statistics: Statistics, count: int, seed: int) -> str:
    note = f"of {_MEASURED:,} of {count:,} records, drawn at random" if count > _MEASURED else ""
    figures = [plots.count_columns("Regions per image", statistics.regions_per_image)]
    if sizes := statistics.sizes:
        dots = random.Random(seed).sample(sizes, min(_DOTS, len(sizes)))
        drawn = f"{len(dots):,} of {len(sizes):,} regions, drawn at random" if len(dots) < len(sizes) else note
        figures += [
            plots.size_columns("Region size, % of the image's side", sizes, note),
            plots.shape_scatter("Region width and height, % of the image's", dots, drawn),
        ]
    figures.append(plots.count_columns("Words per answer", statistics.words))
    if statistics.labels:
        figures.append(plots.name_bars("Classes", statistics.labels))
    elif statistics.answers:
        figures.append(plots.name_bars("Short answers", statistics.answers))
    if len(statistics.kinds) > 1:
        figures.append(plots.name_bars("Kinds of regions", statistics.kinds))
    if len(statistics.tasks) > 1:
        figures.append(plots.name_bars("Tasks", statistics.tasks))
    return f'<section class="plots">{"".join(figures)}</section>'


def _tools(tasks: Counter[str], kinds: Counter[str], shown: int, count: int, seed: int) -> str:
    drawn = f"{shown:,} of {count:,} records, drawn at random with seed {seed}" if shown < count else "all records"
    return (
        '<nav><input id="search" type="search" placeholder="Search questions, answers, names" aria-label="search">'
        f"{_buttons('task', tasks, str)}{_buttons('kind', kinds, as_word)}"
        f'<span class="count"><b id="shown">{shown:,}</b> shown; this page has {drawn}</span></nav>'
    )


def _buttons(group: str, counts: Counter[str], word: Callable[[str], str]) -> str:
    """The buttons, one a name; none where there is no choice."""
    if len(counts) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-{group}="{html.escape(word(name))}" aria-pressed="false">{html.escape(name)}'
        f"<small>{count:,}</small></button>"
        for name, count in counts.most_common()
    )
    return f'<span class="group" role="group" aria-label="{group}">{buttons}</span>'
