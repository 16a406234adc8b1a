"""What training asks of a host, and the hosts by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import HOSTS as MODEL_HOSTS
from pvit_ext.hosts.find import LLAVA, host_of_checkpoint
from pvit_ext.hosts.vision_pass import VisionPass
from pvit_ext.plugins import Registry
from pvit_ext.training.start import flag_value, say
from pvit_ext.training.trainer import RegionTrainer

FLAG = "--host"


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


def _llava() -> TrainingHost:
    from pvit_ext.hosts.llava import compat
    from pvit_ext.hosts.llava.host import check_installed

    check_installed()
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


HOSTS: Registry[Callable[[], TrainingHost]] = Registry("host", "pvit_ext.training_hosts")
"""Name -> maker, which imports the host's packages."""
HOSTS.update({LLAVA: _llava, "transformers": _transformers})


def take_host(words: list[str]) -> tuple[TrainingHost, list[str]]:
    """The host that ``--host NAME`` asks for, by default that of the checkpoint MODEL, and the words without the flag.

    Raises:
        ValueError: for an unknown host.
    """
    name: str | None = None
    rest, remaining = [], iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
        else:
            name = value if equals else next(remaining, "")
    if name is None:
        name = _host_of(flag_value(rest, "model_name_or_path"))
        say(f"{FLAG} {name}, by the checkpoint")
    return HOSTS.require(name)(), rest


def _host_of(model: str | None) -> str:
    """The name of a checkpoint's host; LLaVA's says what is wrong with one that cannot be read."""
    if model is None:
        return LLAVA
    try:
        return MODEL_HOSTS.name_of(host_of_checkpoint(find_kind(model)))
    except (OSError, ValueError):
        return LLAVA
