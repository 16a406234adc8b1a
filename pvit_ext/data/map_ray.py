"""The map step on Ray Data: on the machines of a cluster, or in processes that Ray starts here.

Results come in the order of the batches, so that the output is that of one process byte for byte. Ray runs a batch
again whose worker died. Source and images must lie under the same paths on every machine.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Batch = Any
ResultT = TypeVar("ResultT")
_fetched: dict[str, Callable[[Batch], Any]] = {}
"""The work that this worker does, by Ray's name of it."""


def map_on_ray(
    work: Callable[[Batch], ResultT], batches: Iterable[Batch], workers: int
) -> Iterator[tuple[Batch, ResultT]]:
    """Each batch with its result, in order.

    Args:
        work: from a batch to its result; it depends on its batch alone.
        batches: all of them are listed before the first is read.
        workers: how many run at a time.

    Raises:
        ValueError: where Ray is not installed.
        ChildProcessError: where Ray does not start.
        Exception: of the work, as it raised it in its worker.
    """
    ray = _start(workers)
    listed = list(batches)
    if not listed:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    shared = ray.put(pickle.dumps(work))
    items = [{"number": number, "batch": pickle.dumps(batch)} for number, batch in enumerate(listed)]
    # a block a batch: one that is lost with its worker costs no more than that
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(_Do(shared), num_cpus=1)
    for row in dataset.iter_rows():
        if row["trace"]:
            raise pickle.loads(row["result"]) from RuntimeError(row["trace"])
        yield listed[row["number"]], pickle.loads(row["result"])


def address(workers: int) -> str:
    """The address of this machine, by which the others of a cluster reach it; Ray is started.

    Args:
        workers: how many run at a time, where Ray runs on this machine alone.

    Raises:
        ValueError: where Ray is not installed.
    """
    return str(_start(workers).util.get_node_ip_address())


def _start(workers: int) -> Any:
    """The module ``ray``, connected to a cluster, or to processes that it starts here."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            f"Ray is not installed ({error}): pip install 'pvit-ext[ray]', or leave --backend out"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises no class of its own
            raise ChildProcessError(f"Ray does not start ({error}); without --backend ray it is not needed") from error
    return ray


class _Do:
    """Does a batch in a worker, which fetches the work for its first one alone."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        name = self.shared.hex()
        if name not in _fetched:
            _fetched.clear()
            _fetched[name] = pickle.loads(ray.get(self.shared))
        # raised here, an error would reach the user as one of Ray's, with pages of its stack
        try:
            result, trace = _fetched[name](pickle.loads(row["batch"])), ""
        except Exception as error:
            result, trace = error, traceback.format_exc()
        return {"number": row["number"], "result": pickle.dumps(result), "trace": trace}
