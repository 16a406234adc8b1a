"""COCO's instances of the size of train2017 to records: time and memory with one worker and two, and of json.load.

The file is made up: as many images and annotations as train2017, outlines of as many points, in no order. Images are
links to a few files, so that their headers are read, but not from disk. Memory is the largest sum over all processes.

Run ``python -m tests.benchmarks.bench_convert`` from the repository's root; writes ``results/convert.csv``.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

from tests.benchmarks.harness import arguments, row_of, write

_COMMAND = [sys.executable, "-m", "pvit_ext.cli", "data", "convert", "coco"]
_LINKS = 30_000
"""Links to one file; ext4 allows 65,000."""


def make(path: Path, folder: Path, images: int, annotations: int) -> None:
    """Write a file of instances, and its images."""
    rng = random.Random(0)
    for number in range(images):
        name = folder / f"{number:012d}.jpg"
        if number % _LINKS == 0:
            first = name
            Image.new("RGB", (640, 480), (90, 120, 150)).save(name)
        else:
            os.link(first, name)
    entries = [
        {"license": 1, "file_name": f"{number:012d}.jpg", "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
         "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": number}
        for number in range(images)
    ]  # fmt: skip
    categories = [{"supercategory": "thing", "id": number, "name": f"thing {number}"} for number in range(1, 81)]
    with path.open("w") as stream:
        stream.write('{"info": {"year": 2017}, "images": ' + json.dumps(entries) + ', "annotations": [')
        for number in range(annotations):
            stream.write((", " if number else "") + json.dumps(_annotation(number, rng, images)))
        stream.write('], "categories": ' + json.dumps(categories) + "}")


def _annotation(number: int, rng: random.Random, images: int) -> dict[str, Any]:
    x, y, side = rng.uniform(0, 500), rng.uniform(0, 380), rng.uniform(10, 100)
    points = [
        round(start + rng.random() * side, 2) for _ in range(max(3, int(rng.expovariate(1 / 24)))) for start in (x, y)
    ]
    xs, ys = points[::2], points[1::2]
    box = [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]
    return {"segmentation": [points], "area": side, "iscrowd": int(number % 90 == 0), "image_id": rng.randrange(images),
            "bbox": box, "category_id": rng.randrange(1, 81), "id": number}  # fmt: skip


def bench(images: int, annotations: int, rounds: int, data: Path | None) -> list[dict[str, Any]]:
    """One row per form, over a file that is made now, or was made in the folder ``data`` by an earlier call."""
    results: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, source = (data or Path(name)) / "images", (data or Path(name)) / "coco.json"
        if not source.exists():
            folder.mkdir(parents=True)
            make(source, folder, images, annotations)
        convert = [*_COMMAND, str(source), "--image-folder", str(folder), "--out", str(Path(name, "out.jsonl"))]
        forms = {
            "json.load": [sys.executable, "-c", f"import json; json.load(open({str(source)!r}))"],
            "1 worker": convert,
            "2 workers": [*convert, "--workers", "2"],
            "2 workers, no pictures opened": [*convert, "--workers", "2", "--no-images"],
        }
        for _ in range(rounds):
            for form, command in forms.items():
                results.setdefault(form, []).append(measure(command))
        size = f"{source.stat().st_size / 1e6:.0f} MB"
    baseline = statistics.median(one[0] for one in results["json.load"])
    rows = []
    for form, values in results.items():
        milliseconds, cpu, mebibytes = (list(column) for column in zip(*values, strict=True))
        facts = {"cpu_ms": round(statistics.median(cpu)), "mib": round(max(mebibytes)), "file": size}
        rows.append(row_of(f"{images} images, {annotations} annotations", form, milliseconds, baseline, **facts))
    return rows


def measure(command: list[str]) -> tuple[float, float, float]:
    """Milliseconds and processor milliseconds of a command, and the peak MiB of all its processes together."""
    peak, done = [0.0], threading.Event()
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=os.setpgrp)

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], _mebibytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds * 1e3, cpu * 1e3, peak[0]


def _mebibytes(group: int) -> float:
    """Resident memory of a group's processes; pages that they share count for each."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it ended
                continue
            if int(fields[2]) == group:
                total += int(fields[21])
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="holds the file and its images, kept for later calls"
    )
    options = parser.parse_args()
    write("convert", bench(options.images, options.annotations, options.rounds, options.data), "cpu", options.to)


if __name__ == "__main__":
    main()
