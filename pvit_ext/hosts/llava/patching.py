"""Patch points: the names in LLaVA that pvit-ext rebinds, checked before any is touched, restored to identity.

LLaVA imports its classes by value into the modules that use them, so the names are rebound there. The table follows
Liger-Kernel's patch points and markers.
"""

from __future__ import annotations

import importlib
import inspect
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


class PatchError(RuntimeError):
    """LLaVA does not look as a patch point expects it."""


@dataclass(frozen=True, eq=False)
class PatchPoint:
    """One name to rebind.

    Args:
        target: ``module:attribute`` in LLaVA, or ``module:Class.method``.
        replacement: ``module:attribute`` here, imported when installed.
        expects: per callable the parameters that it must have, in this order; ``""`` stands for the target itself.
    """

    target: str
    replacement: str
    expects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def current(self) -> Any:
        """What the name is bound to now."""
        module, name = self._locate()
        return getattr(module, name)

    def bind(self, value: Any) -> None:
        """Bind the name."""
        module, name = self._locate()
        setattr(module, name, value)

    def check(self) -> None:
        """Raise PatchError unless symbol and signatures are as expected."""
        found = self.current()
        for method, parameters in self.expects.items():
            function = getattr(found, method, None) if method else found
            path = f"{self.target}.{method}" if method else self.target
            if function is None:
                raise PatchError(f"{path}: expected a callable with {list(parameters)}, found none")
            names = list(inspect.signature(function).parameters)
            if [name for name in names if name in parameters] != list(parameters):
                missing = [name for name in parameters if name not in names]
                problem = f"missing {missing}" if missing else "in another order"
                raise PatchError(f"{path}: expected parameters {list(parameters)}, found {names}; {problem}")

    def _locate(self) -> tuple[Any, str]:
        path, _, names = self.target.partition(":")
        try:
            holder: Any = importlib.import_module(path)
        except ImportError as error:
            raise PatchError(f"{self.target}: cannot import {path}: {error!r}; see `pvit-ext doctor`") from error
        for name in names.split("."):
            if not hasattr(holder, name):
                raise PatchError(f"{self.target}: {path} has no {names}; see `pvit-ext doctor`")
            holder, parent = getattr(holder, name), holder
        return parent, name


class AutoModelPoint(PatchPoint):
    """The class that AutoModelForCausalLM builds for a config class (``target``)."""

    def current(self) -> Any:
        """The registered class."""
        from transformers import AutoModelForCausalLM

        config = super().current()
        try:
            return AutoModelForCausalLM._model_mapping[config]
        except KeyError as error:
            raise PatchError(f"{self.target}: expected a class for it in AutoModelForCausalLM, found none") from error

    def bind(self, value: Any) -> None:
        """Register the class in place of the one before."""
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.register(super().current(), value, exist_ok=True)


_PREPARE = ("input_ids", "position_ids", "attention_mask", "past_key_values", "labels", "images", "image_sizes")
_MODEL = {
    "forward": ("input_ids", "attention_mask", "inputs_embeds", "labels", "images"),
    "prepare_inputs_labels_for_multimodal": _PREPARE,
    "encode_images": ("images",),
    "get_vision_tower": (),
    "initialize_vision_tokenizer": ("model_args", "tokenizer"),
}
_CLASSES = {"llama": "Llama", "mistral": "Mistral", "mpt": "Mpt"}
_OURS = "pvit_ext.hosts.llava.classes:Llava{}ForCausalLM"

TOWER_POINTS = (
    PatchPoint(
        "llava.model.llava_arch:build_vision_tower",
        "pvit_ext.hosts.llava.classes:build_vision_tower",
        {"": ("vision_tower_cfg", "kwargs")},
    ),
    PatchPoint(
        "llava.model.multimodal_encoder.clip_encoder:CLIPImageProcessor",
        "pvit_ext.hosts.llava.classes:CLIPImageProcessor",
    ),
)
"""Names that LLaVA builds and loads a vision tower by."""
PREPROCESS_POINTS = (
    PatchPoint(
        "llava.train.train:tokenizer_image_token",
        "pvit_ext.hosts.llava.region_token:tokenizer_region_token",
        {"": ("prompt", "tokenizer", "image_token_index", "return_tensors")},
    ),
    PatchPoint(
        "llava.train.train:preprocess_mpt",
        "pvit_ext.hosts.llava.chatml:preprocess_mpt",
        {"": ("sources", "tokenizer", "has_image")},
    ),
)
"""Names that LLaVA's preprocessing of conversations for training looks up in its module."""
PATCH_POINTS: tuple[PatchPoint, ...] = (
    *(
        PatchPoint(f"llava.model.builder:Llava{name}ForCausalLM", _OURS.format(name), _MODEL)
        for name in _CLASSES.values()
    ),
    *(
        AutoModelPoint(
            f"llava.model.language_model.llava_{module}:Llava{'' if name == 'Llama' else name}Config",
            _OURS.format(name),
        )
        for module, name in _CLASSES.items()
    ),
    PatchPoint(
        "llava.model.llava_arch:LlavaMetaModel.initialize_vision_modules",
        "pvit_ext.hosts.llava.classes:initialize_vision_modules",
        {"": ("self", "model_args", "fsdp")},
    ),
    *TOWER_POINTS,
)

_originals: dict[PatchPoint, Any] = {}
_blocks: Counter[PatchPoint] = Counter()
"""How many blocks of :func:`patched` hold a point that one of them installed."""
_changing = threading.RLock()


def apply_pvit(points: Sequence[PatchPoint] = PATCH_POINTS) -> None:
    """Install all points, or none; installed ones stay as they are.

    Raises:
        PatchError: with path, expected and found.
    """
    with _changing:
        _install(points)


def remove_pvit(points: Sequence[PatchPoint] = PATCH_POINTS) -> None:
    """Restore every installed point to the very object that was there before.

    Raises:
        PatchError: if somebody rebound a name after us; nothing is restored then.
    """
    with _changing:
        installed = [point for point in points if point in _originals]
        for point in installed:
            if (found := point.current()) is not _resolve(point.replacement):
                raise PatchError(f"{point.target} was rebound after apply_pvit(), to {found!r}: restore that one first")
        for point in reversed(installed):
            point.bind(_originals.pop(point))


@contextmanager
def patched(points: Sequence[PatchPoint] = PATCH_POINTS) -> Iterator[None]:
    """Install points for a block; what was installed before it stays after it.

    Blocks of several threads may overlap: the last one restores what the first installed.
    """
    with _changing:
        held = [*_install(points), *(point for point in points if _blocks[point])]
        _blocks.update(held)
    try:
        yield
    finally:
        with _changing:
            _blocks.subtract(held)
            remove_pvit([point for point in held if not _blocks[point]])


def _install(points: Sequence[PatchPoint]) -> list[PatchPoint]:
    for point in points:
        point.current()  # imports the module: a tree with our patch file installs its points then, before we look
    wanted = [point for point in points if point not in _originals]
    for point in wanted:
        point.check()
    replacements = {point: _resolve(point.replacement) for point in wanted}
    before = {point: point.current() for point in wanted}
    try:
        for point in wanted:
            point.bind(replacements[point])
    except Exception:
        for point in wanted:
            point.bind(before[point])
        raise
    _originals.update(before)
    return wanted


def _resolve(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
