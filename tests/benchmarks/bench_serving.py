"""Requests a second and their times with 1 to 64 clients, in batches against one at a time, interleaved in one run.

The servers are processes of ``pvit-ext serve``, with and without ``--max-batch 1``; each question has its own image, or
all have one (``one image``), whose features are kept. On the CPU every answer must be that of the other server; on CUDA
kernels round by the size of a batch, and the rows say whether all answers are the same.
Run ``python -m tests.benchmarks.bench_serving`` from the repository's root, for the quickstart's model if it is there.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from PIL import Image

from tests.benchmarks.harness import arguments, write
from tests.hosts.tiny_hosts import OSPREY, make, photo, save
from tests.serving.load import Load, run
from tests.serving.process import process
from tests.serving.served import image_part, message

QUICKSTART = Path("runs/quickstart/stage2")
REQUESTS = {1: 24, 4: 48, 16: 128, 64: 192}
"""By clients, in each round."""
FORMS = {"one at a time": ["--max-batch", "1"], "batches": ["--max-batch", "16"]}


class _Folders:
    """As pytest's factory of folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mktemp(self, name: str) -> Path:
        (self._folder / name).mkdir()
        return self._folder / name


def tiny(folder: Path) -> Path:
    """A checkpoint with regions whose answers are noise, another to each question."""
    host = make("llava/llama", cast(Any, _Folders(folder)))
    return save(host, host.talking(OSPREY), folder / "model")


def questions(images: int, size: int = 128) -> list[bytes]:
    """Bodies of 64 questions about so many images."""
    found = []
    for number in range(64):
        image: Image.Image = photo(size, size, number % images)
        x, y = 8 * (number % 8), 8 * (number // 8)
        content = message(image_part(image), "What digit is in <region>?")
        body = {"model": "model", "messages": [content], "regions": [[x, y, x + 50, y + 60]], "max_tokens": 16}
        found.append(json.dumps(body).encode())
    return found


def rows(model: Path, device: str, rounds: int, clients: list[int]) -> Iterator[dict[str, Any]]:
    """Two for each number of clients, and for each kind of images."""
    chosen = {number: REQUESTS[number] for number in clients}
    kept = {16: REQUESTS[16]} if 16 in chosen else {}
    with ExitStack() as stack:
        ports = {}
        for form, options in FORMS.items():
            started = stack.enter_context(process(model, "--served-name", "model", *options, device=device))
            ports[form] = int(started[1].rpartition(":")[2])
        for case, images, cases in (("own images", 64, chosen), ("one image", 1, kept)):
            bodies = questions(images)
            for port in ports.values() if cases else ():
                run(port, bodies, 4, 64)  # untimed
            for number, requests in cases.items():
                found: dict[str, list[Load]] = {form: [] for form in FORMS}
                for _ in range(rounds):
                    for form, port in ports.items():
                        found[form].append(run(port, bodies, number, requests))
                differ = several_answers(found)
                if differ and device == "cpu":
                    raise RuntimeError(f"questions with several answers: {differ}")
                for row in compared(f"{case}, {number} clients", found, requests):
                    yield row | {"same_answers": not differ}


def several_answers(found: dict[str, list[Load]]) -> dict[int, set[str]]:
    """Answers of the questions that have more than one: by what was asked beside them, or by chance."""
    answers = {
        number: set[str]().union(*(load.texts[number] for loads in found.values() for load in loads))
        for number in found["batches"][0].texts
    }
    return {number: texts for number, texts in answers.items() if len(texts) > 1}


def compared(case: str, found: dict[str, list[Load]], requests: int) -> Iterator[dict[str, Any]]:
    """One row per form; ``speedup`` is in requests a second."""
    rates = {form: requests / statistics.median(one.seconds for one in loads) for form, loads in found.items()}
    for form, loads in found.items():
        times = sorted(latency for load in loads for latency in load.latencies)
        yield {
            "case": case,
            "form": form,
            "requests_per_second": round(rates[form], 1),
            "median_ms": round(1e3 * statistics.median(times), 1),
            "p95_ms": round(1e3 * times[int(0.95 * len(times))], 1),
            "speedup": round(rates[form] / rates["one at a time"], 2),
            "requests": requests,
            "rounds": len(loads),
        }


def main() -> None:
    """Measure and write the rows."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--model", type=Path, help=f"checkpoint, default {QUICKSTART} if it is there, else a tiny one")
    parser.add_argument("--clients", type=int, choices=REQUESTS, nargs="+", default=[*REQUESTS], help="default all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or (QUICKSTART if QUICKSTART.is_dir() else tiny(Path(folder)))
        write("serving", rows(model, args.device, args.rounds, args.clients), args.device, args.to)


if __name__ == "__main__":
    main()
