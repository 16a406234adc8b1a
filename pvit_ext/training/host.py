"""What training asks of a host, and the hosts by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pvit_ext.training.trainer import RegionTrainer

FLAG = "--host"
DEFAULT = "llava"


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
        """What has to hold from before the model is loaded until the result is written."""
        ...

    def load_model(self, args: Arguments) -> tuple[Any, Any]:
        """The model, with region modules and adapters that the arguments ask for, and its tokenizer or processor.

        What the host's own flags freeze is frozen. It has ``region_module``, a
        :class:`~pvit_ext.tokens.region_module.RegionModule`, and ``model_arguments``, which trackers show and resuming
        compares.
        """
        ...

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """The modules beside language model and region module, by the names of the table at the start."""
        ...

    def load_data(self, args: Arguments, model: Any, processor: Any) -> dict[str, Any]:
        """Keywords of the trainer: ``train_dataset`` and ``data_collator``."""
        ...

    def make_trainer(self, args: Arguments, model: Any, processor: Any, data: dict[str, Any]) -> RegionTrainer:
        """The trainer, after whatever the machine wants changed in the model."""
        ...

    def export(self, trainer: RegionTrainer) -> None:
        """Write the result into ``--output_dir``; every rank calls it."""
        ...


def _llava() -> TrainingHost:
    from pvit_ext.hosts.llava import compat

    compat.prepare_training()  # before anything imports llava.train
    from pvit_ext.training.llava.host import LlavaHost

    return LlavaHost()


def _transformers() -> TrainingHost:
    from pvit_ext.hosts.llava import compat
    from pvit_ext.hosts.transformers.entry import check_version

    check_version()
    compat.prepare_training()
    from pvit_ext.training.transformers.host import TransformersHost

    return TransformersHost()


HOSTS: dict[str, Callable[[], TrainingHost]] = {"llava": _llava, "transformers": _transformers}
"""Name -> maker, which imports the host's packages."""


def take_host(words: list[str]) -> tuple[TrainingHost, list[str]]:
    """The host that ``--host NAME`` asks for, and the command line without it.

    Raises:
        ValueError: for an unknown host.
    """
    name, rest, remaining = DEFAULT, [], iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
        else:
            name = value if equals else next(remaining, "")
    if name not in HOSTS:
        raise ValueError(f"{FLAG} {name!r}; known: {', '.join(HOSTS)}")
    return HOSTS[name](), rest
