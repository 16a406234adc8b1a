"""What ``/metrics`` shows, in Prometheus' format: queue, batches, tokens and regions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pvit_ext.serving.answer import Answer
from pvit_ext.serving.engine import Engine
from pvit_ext.serving.limits import Places
from pvit_ext.serving.uploads import Uploads

_MINUTE = 60.0


class Metrics:
    """Counts what an engine and its server do; an :class:`~pvit_ext.serving.engine.Observer`."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("pvit_ext_requests", "Requests by status", ["path", "status"], registry=own)
        self.seconds = Histogram("pvit_ext_request_seconds", "From its arrival to its last answer's byte", registry=own)
        self._sizes = Histogram(
            "pvit_ext_batch_size", "Questions of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self._batch_seconds = Histogram("pvit_ext_batch_seconds", "Time of a batch", registry=own)
        self._prompt = Counter("pvit_ext_prompt_tokens", "Positions of prompts", registry=own)
        self._completion = Counter("pvit_ext_completion_tokens", "Tokens of answers", registry=own)
        self._images = Counter("pvit_ext_images", "Images seen", registry=own)
        self._regions = Counter("pvit_ext_regions", "Regions seen", registry=own)
        rate = Gauge("pvit_ext_regions_per_second", "Of the last minute", registry=own)
        rate.set_function(self._rate)
        self._waiting = Gauge("pvit_ext_waiting", "Questions that wait for a batch", registry=own)
        self._running = Gauge("pvit_ext_running", "Questions of the running batch without an answer yet", registry=own)
        self._held = Gauge("pvit_ext_requests_held", "Requests being read, waiting or answered", registry=own)
        self._uploads = Gauge("pvit_ext_upload_bytes", "Of uploads that are kept", registry=own)
        self._kept = Gauge("pvit_ext_feature_bytes", "Of features of images that are kept", registry=own)
        self._hits = Gauge("pvit_ext_feature_hits", "How often kept features were used", registry=own)
        self._lately: deque[tuple[float, int]] = deque(maxlen=10_000)

    def watch(self, engine: Engine, places: Places, uploads: Uploads) -> None:
        """Show an engine's queue, and the places and uploads of a server before it."""
        self._uploads.set_function(lambda: uploads.held)
        self._held.set_function(lambda: places.requests)
        self._waiting.set_function(lambda: engine.waiting)
        self._running.set_function(lambda: engine.running)
        if (features := engine.features) is not None:
            self._kept.set_function(lambda: features.bytes)
            self._hits.set_function(lambda: features.hits)

    def batch(self, answers: Sequence[Answer], seconds: float) -> None:
        """A batch has ended."""
        self._sizes.observe(len(answers))
        self._batch_seconds.observe(seconds)
        regions = sum(len(answer.prompt.given) for answer in answers)
        self._regions.inc(regions)
        self._lately.append((time.monotonic(), regions))
        for answer in answers:
            self._images.inc(len(answer.query.sources()))
            if (done := answer.completed) is not None:
                self._prompt.inc(done.prompt_tokens)
                self._completion.inc(len(done.ids))

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)

    def _rate(self) -> float:
        since = time.monotonic() - _MINUTE
        return sum(regions for at, regions in list(self._lately) if at >= since) / _MINUTE
