"""Every bad record of a data file, without a model: what ``pvit-ext data check`` says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike

from pvit_ext.data.records import Record, Records, folder_of
from pvit_ext.data.scan import BadRecord, scan
from pvit_ext.data.schema import images_of
from pvit_ext.data.summary import Summary
from pvit_ext.regions.image import ImageError, image_size, load_image
from pvit_ext.regions.region import RegionError

_DECODERS = 4


def validate(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, check_images: bool = False
) -> list[str]:
    """Every bad record of a data file, one line each with file, line and id, by line; empty if all are good."""
    return check(path, image_folder, check_images)[0]


def check(
    path: str | PathLike[str],
    image_folder: str | PathLike[str] | None = None,
    check_images: bool = False,
    decode: bool = False,
) -> tuple[list[str], Summary]:
    """Every bad record of a data file, one line each with file, line and id, by line; and what the good ones hold.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, every image must exist in it.
        check_images: also read each image's header and resolve the regions against its size.
        decode: also decode every image, so that a truncated one is found.
    """
    folder = folder_of(image_folder)
    if (check_images or decode) and folder is None:
        raise ValueError("check_images needs the image_folder")
    found = scan(path, folder)
    if not (check_images or decode) or len(found.bad) == len(found.rows) or not len(found.rows):
        return [one.problem for one in found.bad.values()], found.summary
    problems, summary = dict(found.bad), Summary()
    good = [row for row in range(len(found.rows)) if row not in found.bad]
    records = Records(path, folder, found)
    for row, (problem, record) in zip(good, _checked(records, good, decode), strict=True):
        if problem:
            problems[row] = BadRecord(record.location, problem)
        else:
            summary.add(images_of(record.data), record.kinds)
    return [problems[row].problem for row in sorted(problems)], summary


def _checked(records: Records, rows: list[int], decode: bool) -> Iterator[tuple[str | None, Record]]:
    """What is wrong with each record and its images, with a progress bar; images are decoded in threads."""
    from tqdm import tqdm

    def one(record: Record) -> tuple[str | None, Record]:
        return _image_problem(record, decode), record

    bar = tqdm(total=len(rows), desc="images", unit="record")
    with bar, ThreadPoolExecutor(_DECODERS) as pool:
        for start in range(0, len(rows), 256):
            for result in pool.map(one, [records[row] for row in rows[start : start + 256]]):
                bar.update()
                yield result


def _image_problem(record: Record, decode: bool) -> str | None:
    try:
        sizes = [load_image(file).size if decode else image_size(file) for file in record.image_files]
        record.resolve(sizes)
    except RegionError as error:
        return str(error)
    except (ImageError, OSError) as error:
        return f"{record.location}: {error}"
    return None
