"""transformers' own vision-language models as a host: loaded, given regions, and in conversation.

Light, and importable with any transformers: :func:`~pvit_ext.hosts.find.host_of` asks each host about a model.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from packaging.version import Version

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.hosts.chat import Chat
from pvit_ext.hosts.checkpoint_kind import CheckpointKind
from pvit_ext.hosts.find import Loaded
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.stored import StoredModel

OLDEST = "5.18"
"""The first transformers in whose models regions work."""


class TransformersModels:
    """The families of :mod:`pvit_ext.hosts.transformers.families`; see :class:`~pvit_ext.hosts.find.ModelHost`."""

    def holds(self, model: Any) -> bool:
        """Whether a model's config nests that of a vision tower; adapters around it pass the name on."""
        return hasattr(getattr(model, "config", None), "vision_config")

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a config.json nests that of a vision tower."""
        return "vision_config" in values

    def load(self, kind: CheckpointKind, call: LoadCall) -> Loaded:
        """Load a checkpoint; see :func:`pvit_ext.hosts.transformers.loading.load`."""
        loaded: Loaded = _module("loading").load(kind, call)
        return loaded

    def dtype(self, path: str, call: LoadCall) -> torch.dtype:
        """By the config of a checkpoint; see :func:`pvit_ext.hosts.transformers.loading.dtype_of`."""
        from transformers import AutoConfig

        found: torch.dtype = _module("loading").dtype_of(AutoConfig.from_pretrained(path), call)
        return found

    def save_processor(self, loaded: Loaded, path: str, folder: Path) -> None:
        """Write the processor, tokenizer and chat template included."""
        loaded.processor.save_pretrained(folder)

    def stored(self, folder: Path) -> StoredModel:
        """A checkpoint on disk; see :func:`pvit_ext.hosts.transformers.stored.read_stored`."""
        stored: StoredModel = _module("stored").read_stored(folder)
        return stored

    def add_regions(self, folder: Path, regions: dict[str, Any]) -> None:
        """Name region modules in files; see :func:`pvit_ext.hosts.transformers.stored.add_regions`."""
        _module("stored").add_regions(folder, regions)

    def attach(
        self, model: Any, config: RegionConfig, checkpoint: str, filled_later: bool, facts: EncoderFacts | None,
        processor: Any,
    ) -> Any:  # fmt: skip
        """Give a loaded model a region encoder; see :func:`pvit_ext.hosts.transformers.attach.attach`."""
        return _module("attach").attach(model, config, checkpoint, filled_later, facts, processor)

    def check_conv_version(self, conv_version: str) -> None:
        """Refuse any; see :func:`pvit_ext.hosts.transformers.chat.check_conv_version`."""
        _module("chat").check_conv_version(conv_version)

    def chat(self, model: Any, tokenizer: Any, processor: Any, conv_version: str | None, system: str | None) -> Chat:
        """Open a conversation; see :class:`pvit_ext.hosts.transformers.chat.TransformersChat`."""
        chat: Chat = _module("chat").TransformersChat(model, processor, conv_version, system)
        return chat


def check_version() -> None:
    """Raise ValueError where the installed transformers is too old for regions in its models.

    Before 5.18 `generate` knows no `mm_encoder_outputs`, which carries what the towers gave into each step.
    """
    import transformers  # late: listing hosts needs none of it

    found = transformers.__version__
    if Version(found).release < Version(OLDEST).release:  # a release candidate counts as its release
        raise ValueError(
            f"regions in transformers' own models need transformers {OLDEST} or newer, this is {found}: upgrade it, or "
            "take a checkpoint of LLaVA's code"
        )


def _module(name: str) -> ModuleType:
    check_version()
    return importlib.import_module(f"pvit_ext.hosts.transformers.{name}")


HOST = TransformersModels()
