"""Finds the host of a loaded model by what its class offers, and of a checkpoint by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from transformers import PretrainedConfig

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.hosts.chat import Chat
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, lowest_checkpoint
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.stored import StoredModel
from pvit_ext.plugins import Registry


class Loaded(NamedTuple):
    """What ``load_pretrained_model`` returns.

    Args:
        tokenizer: of the model.
        model: in eval mode.
        processor: of images alone (LLaVA), or of text and images (transformers).
        context_len: positions that a prompt and its answer may take.
    """

    tokenizer: Any
    model: Any
    processor: Any
    context_len: int


class ModelHost(Protocol):
    """A family of vision-language models, with its own way of loading and of conversation."""

    def holds(self, model: Any) -> bool:
        """Whether a loaded model is of this family, by what its class offers."""

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this config.json is of this family."""

    def load(self, kind: CheckpointKind, call: LoadCall) -> Loaded:
        """Load a checkpoint and what lies on it.

        Args:
            kind: what to load.
            call: device, dtype and the like; its ``region_config`` is attached afterwards.

        Raises:
            ValueError: when parts do not fit together.
        """

    def dtype(self, path: str, call: LoadCall) -> torch.dtype:
        """The dtype that :meth:`load` gives a model, known without its weights.

        Args:
            path: of the whole checkpoint at the end of the chain.
            call: device, dtype and the like.
        """

    def save_processor(self, loaded: Loaded, path: str, folder: Path) -> None:
        """Write what a saved model needs beside its weights to load and answer.

        Args:
            loaded: from :meth:`load`.
            path: folder or hub id of the whole checkpoint that it was loaded from.
            folder: that the model was saved into.
        """

    def stored(self, folder: Path) -> StoredModel:
        """What region modules need to know of a checkpoint on disk.

        Args:
            folder: of a whole checkpoint.

        Raises:
            ValueError: when it is none of this family.
        """

    def add_regions(self, folder: Path, regions: dict[str, Any]) -> None:
        """Name new region modules in the files beside the weights: config.json, and those of the processor.

        Args:
            folder: with the other files of a checkpoint.
            regions: the nested key of config.json.

        Raises:
            ValueError: when the checkpoint has no room for ``<region>``.
        """

    def attach(
        self, model: Any, config: RegionConfig, checkpoint: str, filled_later: bool, facts: EncoderFacts | None,
        processor: Any,
    ) -> Any:  # fmt: skip
        """Give a loaded model a region encoder, in place; see :func:`~pvit_ext.attach`."""

    def check_conv_version(self, conv_version: str) -> None:
        """Refuse a conversation template that :meth:`chat` would refuse, before a model is loaded.

        Raises:
            ValueError: with the known ones, or that there are none to choose from.
        """

    def chat(self, model: Any, tokenizer: Any, processor: Any, conv_version: str | None, system: str | None) -> Chat:
        """Open a conversation with a loaded model.

        Args:
            model, tokenizer, processor: from :func:`~pvit_ext.load_pretrained_model`.
            conv_version: name of a conversation template, None for the usual one.
            system: system prompt in place of the template's.

        Raises:
            ValueError: when there is no such template, or it has no place for a system prompt.
        """


HOSTS: Registry[ModelHost] = Registry("host", "pvit_ext.hosts")
LLAVA = "llava"
"""The host that says what is wrong with a checkpoint that no host reads."""


def host_of(model: Any) -> ModelHost:
    """The host of a loaded model.

    Raises:
        TypeError: when it belongs to none, with the known ones.
    """
    for name in HOSTS.names():
        if (host := HOSTS.require(name)).holds(model):
            return host
    raise TypeError(f"a {type(model).__name__} is no model of a known host ({', '.join(HOSTS.names())})")


def host_of_checkpoint(kind: CheckpointKind) -> ModelHost:
    """The host of a checkpoint, or of the checkpoint under what was trained.

    Args:
        kind: what lies in its folder.

    Raises:
        OSError: when no config.json can be read.
    """
    values = PretrainedConfig.get_config_dict(lowest_checkpoint(kind))[0]
    others = (HOSTS.require(name) for name in HOSTS.names() if name != LLAVA)
    return next((host for host in others if host.reads(values)), HOSTS.require(LLAVA))
