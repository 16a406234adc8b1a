"""Many regions of one photograph: the towers run for each question, against once for all of them.

Each question is about one box on the same JPEG of 1280x960 pixels, with one new token, in batches of 8, through
``pvit_ext.ask``. The form with a shared image begins with nothing kept, so its one pass through the towers is counted.
The host is transformers' LLaVA with a small language model; its vision tower is a small one or that of LLaVA-1.5, the
region encoder reads the tower's maps (osprey) or is RegionCLIP's RN50x4 at full size. On the CPU both forms give the
same answers, or the benchmark fails.

Run ``python -m tests.benchmarks.bench_shared_images`` from the repository's root; writes ``results/shared_images.csv``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pvit_ext import ImageFeatures, Query, Region, RegionConfig, ask
from pvit_ext.hosts.transformers.attach import attach
from tests.benchmarks.bench_region_cache import CLIP_L
from tests.benchmarks.bench_step import stock
from tests.benchmarks.harness import arguments, compare, write
from tests.hosts.transformers.inputs import make_image
from tests.hosts.transformers.zoo import CHAT

BATCH = 8
SIZE = (1280, 960)


@dataclass(frozen=True)
class Case:
    """What is timed.

    Args:
        encoder: of regions.
        regions: on the photograph.
        tower: sizes of the vision tower; small without.
    """

    encoder: str
    regions: int
    tower: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        seen = "CLIP-L/336" if self.tower else "a small one"
        return f"{self.regions} region(s) of one photograph, {self.encoder}, vision tower {seen}"


CASES = (
    Case("osprey", 1),
    Case("osprey", 8),
    Case("osprey", 64),
    Case("osprey", 500),
    Case("osprey", 1, CLIP_L),
    Case("osprey", 8, CLIP_L),
    Case("osprey", 64, CLIP_L),
    Case("regionclip", 1),
    Case("regionclip", 8),
    Case("regionclip", 64),
)


def rows_of(case: Case, rounds: int, device: str, cpu_time: bool) -> Iterator[dict[str, Any]]:
    """Both forms of a case."""
    with tempfile.TemporaryDirectory() as name:
        photograph = Path(name) / "photograph.jpg"
        make_image(*SIZE, 0).save(photograph, quality=90)
        model, processor = stock(256, 4, **case.tower)
        processor.chat_template = CHAT.replace("IMAGE", "<image> ")
        attach(model, RegionConfig(case.encoder), processor=processor)
        model.to(device).eval()
        boxes = [(x, y, x + 200, y + 150) for y in range(0, 800, 32) for x in range(0, 1080, 54)][: case.regions]
        queries = [Query(str(photograph), "what is in <region> ?", [Region.box(*box)]) for box in boxes]
        answers: dict[str, list[str]] = {}

        def form(shared: bool) -> None:
            features = ImageFeatures(1 << 30) if shared else None
            parts = model, processor.tokenizer, processor
            answers[str(shared)] = ask(*parts, queries, max_new_tokens=1, batch_size=BATCH, features=features)

        forms = {"towers run for each question": lambda: form(False), "towers run once": lambda: form(True)}
        facts = {"regions": case.regions, "batch": BATCH, "lm": "4 layers of 256", "host": "transformers"}
        facts |= {"time": "of the process" if cpu_time else "wall"}
        rows = compare(case.name, forms, rounds, time.process_time if cpu_time else None, **facts)
        same = answers["False"] == answers["True"]
        if device == "cpu" and not same:
            raise RuntimeError(f"the answers differ: {answers}")
        for row in rows:
            yield row | {"ms_per_region": round(row["median_ms"] / case.regions, 1), "same_answers": same}


def main() -> None:
    """Write ``results/shared_images.csv``."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), nargs="+", default=[*range(len(CASES))])
    parser.add_argument("--cpu-time", action="store_true", help="of the process, with one thread: on a loaded machine")
    given = parser.parse_args()
    if given.cpu_time:
        torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sizes = given.rounds, given.device, given.cpu_time
    write("shared_images", (row for one in given.case for row in rows_of(CASES[one], *sizes)), given.device, given.to)


if __name__ == "__main__":
    main()
