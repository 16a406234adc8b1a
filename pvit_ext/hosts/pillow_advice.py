"""transformers' advice to install torchvision, wrong here: images go through Pillow, on whose pixels LLaVA's learnt."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "transformers.utils.import_utils"
_TEXT = "ImageProcessor` requires torchvision (not installed)"


@contextmanager
def without_pillow_advice() -> Iterator[None]:
    """Leave that one line out of transformers' log while something of ours loads; all its others pass."""

    def is_other(record: logging.LogRecord) -> bool:  # one of its own for each block: blocks of threads overlap
        return _TEXT not in record.getMessage()

    logger = logging.getLogger(_LOGGER)
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
