"""A tokenizer's call, one at a time.

transformers' fast tokenizers keep the padding and truncation of a call in themselves while it runs: of two threads that
call one tokenizer, one would get the other's.
"""

from __future__ import annotations

import threading
from typing import Any

_lock = threading.RLock()


def tokenize(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
    """What a tokenizer returns.

    Args:
        tokenizer: of transformers.
        args, kwargs: of its call.
    """
    with _lock:
        return tokenizer(*args, **kwargs)
