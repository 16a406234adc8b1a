"""Processors where torchvision is not installed: images on PIL, text, and no videos.

transformers has all its image processors on PIL too, but the processors of families that also take videos (Qwen-VL,
LLaVA-OneVision, InternVL, GLM-4V) ask for torchvision when they are loaded. Pixtral's does so for a single function.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Any
from unittest.mock import patch

logger = logging.getLogger(__name__)
_MODELS = "transformers.models"
_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
_ONE_AT_A_TIME = Lock()


def load_processor(path: str, **kwargs: Any) -> Any:
    """``AutoProcessor.from_pretrained``, or a processor of images and text where that needs a missing torchvision.

    Args:
        path: folder or hub id.
        kwargs: of ``from_pretrained``.

    Raises:
        ImportError: for another package that is missing.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, **kwargs)
    except ImportError as error:
        if importlib.util.find_spec("torchvision") is not None or "torchvision" not in str(error).lower():
            raise
        _say_no_videos()
    with _ONE_AT_A_TIME, without_torchvision():
        return AutoProcessor.from_pretrained(path, **kwargs)


@cache
def _say_no_videos() -> None:
    logger.warning("torchvision is not installed: the processor prepares images by PIL, and takes no videos")


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Change names of transformers while a processor is loaded or made."""
    from transformers import processing_utils, video_processing_utils
    from transformers.models.auto import processing_auto
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    stock = processing_auto.processor_class_from_name
    with ExitStack() as stack:
        stack.enter_context(patch.object(processing_auto, "processor_class_from_name", lambda name: _real(stock(name))))
        stack.enter_context(patch.object(AutoVideoProcessor, "from_pretrained", _no_videos))
        for name in ("VideoProcessorMixin", "BaseVideoProcessor"):  # the latter is asked for until transformers 5.22
            if (real := getattr(video_processing_utils, name, None)) is not None:
                stack.enter_context(patch.object(processing_utils.transformers_module, name, real, create=True))
        yield


def _real(found: Any) -> Any:
    """The class that a stand-in for a missing package stands for."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if not hasattr(found, "_backends"):
        return found
    for kind, names in PROCESSOR_MAPPING_NAMES.items():
        if found.__name__ == names or found.__name__ in names:
            module = kind.replace("-", "_")
            with pixtral_on_pil():
                return getattr(importlib.import_module(f"{_MODELS}.{module}.processing_{module}"), found.__name__)
    return found


@contextmanager
def pixtral_on_pil() -> Iterator[None]:
    """Let Pixtral's module import a function from its image processor on PIL, not from the one on torchvision."""
    name = f"{_MODELS}.pixtral.image_processing_pixtral"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = importlib.import_module(f"{_MODELS}.pixtral.image_processing_pil_pixtral")
    try:
        yield
    finally:
        del sys.modules[name]


def video_stand_in(values: dict[str, Any]) -> Any:
    """A video processor that keeps its values, so that they are written as they were read, and takes no video.

    Args:
        values: of a file.
    """
    videos: Any = object.__new__(_stand_in_class())
    vars(videos).update({"as_read": values, **values})
    return videos


@cache
def _stand_in_class() -> Any:
    from transformers import video_processing_utils

    base: Any = getattr(video_processing_utils, "VideoProcessorMixin", video_processing_utils.BaseVideoProcessor)
    own = {"__module__": __name__, "to_dict": _as_read, "__call__": _refuse}
    return type("NoVideos", (base,), own)


def __getattr__(name: str) -> Any:
    """Find the class by its name, for pickle in data workers."""
    if name != "NoVideos":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _stand_in_class()


def _no_videos(path: str, *args: Any, **kwargs: Any) -> Any:
    from transformers.utils import cached_file

    values: dict[str, Any] = {}
    for name in _FILES:
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **_of_hub(kwargs))
        if found is None:
            continue
        with open(found, encoding="utf-8") as file:
            read = json.load(file)
        values = read.get("video_processor") or (read if name != _FILES[0] else {})
        if values:
            break
    return video_stand_in(values)


def _of_hub(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}


def _as_read(self: Any) -> dict[str, Any]:
    return dict(self.as_read)


def _refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise ImportError("videos need torchvision: pip install torchvision, and load the processor again")
