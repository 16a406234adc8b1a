"""The hosts of training by name; what training asks of one stands in ``training/contract.py``."""

from __future__ import annotations

from collections.abc import Callable

from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import HOSTS as MODEL_HOSTS
from pvit_ext.hosts.find import LLAVA, host_of_checkpoint
from pvit_ext.plugins import Registry
from pvit_ext.training.contract import Arguments, TrainingHost
from pvit_ext.training.start import flag_value, say

__all__ = ["FLAG", "HOSTS", "Arguments", "TrainingHost", "take_host"]
FLAG = "--host"


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
