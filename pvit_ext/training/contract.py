"""What training asks of a host, apart from the hosts themselves: their own files import it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pvit_ext.hosts.vision_pass import VisionPass
from pvit_ext.training.trainer import RegionTrainer


@dataclass
class Arguments:
    """The command line of a run, parsed.

    Args:
        model: has the fields of :class:`~pvit_ext.training.arguments.ModelFlags`.
        data: those of :class:`~pvit_ext.training.arguments.DataFlags`, ``data_path`` and ``image_folder``.
        training: those of :class:`~pvit_ext.training.arguments.TrainingFlags` and of transformers' TrainingArguments.
        attn_implementation: of the language model, where the caller names one.
    """

    model: Any
    data: Any
    training: Any
    attn_implementation: str | None = None


class TrainingHost(Protocol):
    """A kind of model that :func:`~pvit_ext.training.run.main` can train; its methods are called in this order."""

    @property
    def argument_classes(self) -> tuple[Any, Any, Any]:
        """Dataclasses of model, data and training, for one HfArgumentParser."""
        ...

    def command_line(self, words: list[str]) -> list[str]:
        """The words to parse, in which MODEL is something that :meth:`load_model` loads."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """A context from before the model is loaded until the result is written."""
        ...

    def load_model(self, args: Arguments) -> tuple[Any, Any]:
        """The model, with region modules and adapters that the arguments ask for, and its tokenizer or processor.

        What the host's own flags freeze is frozen. It has ``region_module``, a
        :class:`~pvit_ext.tokens.region_module.RegionModule`, and ``model_arguments``, which trackers show and resuming
        compares.
        """
        ...

    def outline_model(self, args: Arguments) -> Any:
        """The model of :meth:`load_model` on the meta device, made of config.json alone.

        Only ``pvit-ext plan`` needs it; the arguments then name their region encoder by flags, without files.
        """
        ...

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """The modules beside language model and region module, by the names of the table at the start."""
        ...

    def load_data(self, args: Arguments, model: Any, processor: Any) -> dict[str, Any]:
        """Keywords of the trainer: ``train_dataset`` and ``data_collator``."""
        ...

    def make_trainer(self, args: Arguments, model: Any, processor: Any, data: dict[str, Any]) -> RegionTrainer:
        """The trainer, after changes to the model that the machine needs."""
        ...

    def vision_pass(self, args: Arguments, model: Any, processor: Any) -> VisionPass:
        """The vision tower as ``pvit-ext data cache`` stores it; only the cache needs it."""
        ...

    def export(self, trainer: RegionTrainer) -> None:
        """Write the result into ``--output_dir``; every rank calls it."""
        ...
