"""Start-up on a large data file: time and memory of the first rank, of ranks that share its index, and of json.load.

Run ``python -m tests.benchmarks.bench_records`` from the repository's root; writes ``results/records.csv``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import arguments, row_of, write

_FORMS = {
    "json.load": "import json; kept = json.load(open(path))",
    "first rank": "from pvit_ext.data.records import load_records; kept = load_records(path, folder)",
    "next rank": "from pvit_ext.data.records import load_records; kept = load_records(path, folder)",
}
_PROGRAM = """
import sys, time
from pathlib import Path

import pvit_ext.data.records

def kibibytes(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field + ":")))

path, folder = sys.argv[1:]
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
before = kibibytes("VmRSS")
start, busy = time.perf_counter(), time.process_time()
{form}
seconds, busy = time.perf_counter() - start, time.process_time() - busy
peak = kibibytes("VmHWM") - before
start = time.perf_counter()
items = [kept[number] for number in range(0, len(kept), 97)]
each = (time.perf_counter() - start) / len(items)
print(seconds * 1e3, busy * 1e3, peak / 1024, each * 1e6)
"""


def make(path: Path, folder: Path, records: int) -> None:
    """Records of two turns with three regions each, of which one is a polygon, on 1,000 images."""
    for number in range(1000):
        (folder / f"{number:06d}.jpg").touch()
    text = "A long answer about what is seen here, with several words in each of its sentences. " * 4
    polygon = {"polygon": [[10.5 + x, 20.25 + x * x % 97] for x in range(12)]}
    with path.open("w") as stream:
        for number in range(records):
            turns = [
                {"from": "human", "value": "<image>\nWhat is <region> doing with <region> beside <region>?"},
                {"from": "gpt", "value": text},
            ]
            regions = [[number % 300, 10.5, 400, 222.25], {"box": [0.1, 0.2, 0.5, 0.6], "normalized": True}, polygon]
            image = f"{number % 1000:06d}.jpg"
            row = {"id": str(number), "image": image, "conversations": turns, "regions": regions}
            stream.write(("[" if number == 0 else ",\n") + json.dumps(row))
        stream.write("]")
    os.utime(path, (time.time() - 60,) * 2)


def bench(records: int, rounds: int) -> list[dict[str, Any]]:
    """One row per form: quantiles over processes that run in turn."""
    results: dict[str, list[list[float]]] = {form: [] for form in _FORMS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "train.json", folder, records)
        for number in range(rounds):
            environment = {**os.environ, "PVIT_EXT_CACHE": str(folder / f"cache-{number}")}
            for form, code in _FORMS.items():
                command = [sys.executable, "-c", _PROGRAM.format(form=code), str(folder / "train.json"), name]
                out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
                results[form].append([float(value) for value in out.split()])
    baseline = statistics.median(one[0] for one in results["json.load"])
    rows = []
    for form, values in results.items():
        milliseconds, *others = (list(column) for column in zip(*values, strict=True))
        cpu, mebibytes, microseconds = map(statistics.median, others)
        facts = {"cpu_ms": round(cpu, 3), "mib": round(mebibytes), "us_per_item": round(microseconds, 1)}
        rows.append(row_of(f"{records} records", form, milliseconds, baseline, **facts))
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--records", type=int, default=200_000)
    options = parser.parse_args()
    write("records", bench(options.records, options.rounds), "cpu", options.to)


if __name__ == "__main__":
    main()
