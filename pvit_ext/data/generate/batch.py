"""The files of the batch API: requests that are still needed go out, replies come into the ledger.

A round is: write requests, have them answered (OpenAI's batch API, ``vllm run-batch``), put the files of replies and of
errors into the folder's ``results``, run the same command again. What needs a second call, or has to be asked again,
is in the next round; when nothing is needed any more, the records are written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.pipeline import Pipeline
from pvit_ext.data.generate.reply import Usage, read_body
from pvit_ext.data.generate.request import Request
from pvit_ext.data.generate.strategies import Job
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import ImageError

MAX_REQUESTS, MAX_BYTES = 50_000, 190_000_000
"""Most of one file; the API takes 200 MB."""
RESULTS = "results"
URL = "/v1/chat/completions"


@dataclass
class Read:
    """What the files of results held.

    Args:
        replies: that are in the ledger now.
        refused: requests that the endpoint does not take.
        again: that failed in a way that may pass, by reason; they are in the next round.
        unknown: of requests that this run did not write.
    """

    replies: int = 0
    refused: int = 0
    again: Counter[str] = field(default_factory=Counter)
    unknown: int = 0


def read_results(folder: Path, ledger: Ledger) -> Read:
    """Take the replies in a batch folder's ``results`` into the ledger.

    Raises:
        ValueError: naming file and line of what is no line of a batch's results.
    """
    found = Read()
    for path in sorted((folder / RESULTS).glob("*.jsonl")):
        for number, raw in enumerate(path.open("rb"), 1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
                key, response, error = line["custom_id"], line.get("response"), line.get("error")
                status = response["status_code"] if response else None
                body = response.get("body") if response else None
            except (ValueError, KeyError, TypeError, AttributeError) as problem:
                raise ValueError(
                    f"{path} line {number} is no line of a batch's results ({problem!r}): expected an object with "
                    "custom_id, response {status_code, body} and error; fetch the file again"
                ) from problem
            _take(ledger, found, str(key), status, body, error)
    return found


def _take(ledger: Ledger, found: Read, key: str, status: Any, body: Any, error: Any) -> None:
    if ledger.lookup(key) is not None:
        return
    if key not in ledger.in_flight:
        found.unknown += 1
    elif status == 200 and not error:
        raw = json.dumps(body)
        try:
            read_body(raw)
        except ValueError as problem:
            found.again[str(problem)[:80]] += 1
            return
        ledger.finish(key, ledger.in_flight[key].job, raw)
        found.replies += 1
    elif status in (400, 413, 422):
        ledger.fail(key, ledger.in_flight[key].job, f"status {status}: {_message(body)}")
        found.refused += 1
    else:
        found.again[_message({"error": error}) if error else f"status {status}: {_message(body)}"] += 1


def _message(body: Any) -> str:
    try:
        return str(body["error"].get("code") or body["error"]["message"])[:200]
    except (KeyError, TypeError, AttributeError):
        return str(body)[:200]


def write_requests(jobs: Iterable[Job], pipeline: Pipeline, ledger: Ledger, folder: Path) -> tuple[list[Path], int]:
    """Write the requests that the jobs need next, and note them as in flight; older request files are removed.

    Returns:
        The files, and how many requests they hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).mkdir(exist_ok=True)
    files: list[Path] = []
    old = set(folder.glob("requests-*.jsonl"))
    count = 0
    requests = _needed(jobs, pipeline, ledger)
    request = next(requests, None)
    while request is not None:
        path = folder / f"requests-{len(files) + 1:04d}.jsonl"
        with ExitStack() as stack:
            file = stack.enter_context(stack.enter_context(atomic_write(path)).open("wb"))
            lines = size = 0
            while request is not None:
                try:
                    line = _line(request)
                except ImageError as error:
                    ledger.fail(request.key, request.job, str(error))
                    request = next(requests, None)
                    continue
                if lines and (lines >= MAX_REQUESTS or size + len(line) > MAX_BYTES):
                    break
                file.write(line)
                lines, size = lines + 1, size + len(line)
                if request.key not in ledger.in_flight:
                    ledger.start(request.key, request.job, Usage(request.input_tokens, request.options.max_tokens))
                request = next(requests, None)
        files.append(path)
        count += lines
    for path in old - set(files):
        path.unlink()
    return files, count


def _needed(jobs: Iterable[Job], pipeline: Pipeline, ledger: Ledger) -> Iterator[Request]:
    written: set[str] = set()
    for job in jobs:
        step = pipeline.advance(job, ledger.lookup)
        if isinstance(step, Request) and step.key not in written:
            written.add(step.key)
            yield step


def _line(request: Request) -> bytes:
    line = {"custom_id": request.key, "method": "POST", "url": URL, "body": request.body()}
    return json.dumps(line).encode() + b"\n"
