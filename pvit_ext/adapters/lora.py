"""An adapter on the language model: made new, and folders of adapters loaded again."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters import refusals
from pvit_ext.adapters.entries import matches
from pvit_ext.adapters.layers import (
    adapted_layers,
    choose_layers,
    find_all_linear_names,
    names_of_layers,
    seeing_modules,
)
from pvit_ext.adapters.options import AdapterChoice, config_class
from pvit_ext.adapters.tensors import adapter_names, plain_name, plain_names, wrap
from pvit_ext.adapters.values import check_tokens
from pvit_ext.encoders.weights import names_in, read_checkpoint
from pvit_ext.files import read_json
from pvit_ext.tokens.serialization import CONFIG_FILE

__all__ = ["add_lora", "check_adapter_files", "find_all_linear_names", "load_adapter", "load_non_lora_weights"]

ADAPTER_CONFIG = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"
PEFT_PREFIX = "base_model.model."


def add_lora(model: Any, arguments: Any) -> Any:
    """peft's wrapper around a model, with a new adapter.

    Args:
        model: to be trained.
        arguments: with LLaVA's ``lora_r``, ``lora_alpha``, ``lora_dropout`` and ``lora_bias``, and pvit-ext's
            ``lora_method`` and ``lora_options``.

    Raises:
        ValueError: for layers that the language model does not have, that see, or that peft has no such adapter for.
    """
    config = AdapterChoice.of(arguments).config()
    choose_layers(model, config)
    check_tokens(config, model.get_input_embeddings().num_embeddings)
    seeing = list(seeing_modules(model))
    wrapped = _wrapped(model, config)
    names = {id(parameter): name for name, parameter in wrapped.named_parameters() if name in adapter_names(wrapped)}
    if not names:
        raise ValueError(f"the adapter {config.peft_type} adds no parameter to this model")
    if wrong := sorted(names[id(one)] for part in seeing for one in part.parameters() if id(one) in names):
        raise ValueError(f"an adapter belongs on the language model alone, and this one changes {', '.join(wrong[:3])}")
    for part in seeing:  # peft has frozen it, and by a config's ``bias`` let every bias of the model train again
        part.requires_grad_(False)
    _without_bias(*wrapped.peft_config.values())
    return wrapped


def _wrapped(model: Any, config: Any) -> Any:
    """peft's wrapper; what it cannot make is told with the adapter that was asked for."""
    try:
        return wrap(model, config)
    except torch.cuda.OutOfMemoryError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, ImportError) as error:
        if isinstance(error, NotImplementedError) and any(one.is_meta for one in model.parameters()):
            raise  # a plan's tensors have no values
        raise ValueError(
            f"peft {version('peft')} cannot make an adapter of {refusals.tuner_of(config)} with these --lora_options "
            f"on this model: {error}. Give other values, or other layers by target_modules"
        ) from error


def _without_bias(*configs: Any) -> None:
    """Take the biases out of configs of peft: they are the base's own, and are kept beside the adapter."""
    for config in configs:
        if hasattr(config, "bias"):
            config.bias = "none"  # else peft saves those of towers too, and lets no two adapters have any


def check_adapter_files(folder: Path) -> bool:
    """Whether a folder of region modules holds a LoRA adapter too.

    Raises:
        FileNotFoundError: when one belongs to it and was never written.
    """
    if not read_json(Path(folder, CONFIG_FILE)).get("adapter"):
        return False
    if missing := [name for name in (ADAPTER_CONFIG, NON_LORA_FILE) if not Path(folder, name).is_file()]:
        raise FileNotFoundError(f"{folder} is of an interrupted LoRA run, {missing} are missing: resume the run")
    return True


def load_adapter(model: Any, folder: Path, bits: int = 16) -> Any:
    """Load what a LoRA run trained into its base model: first the tensors beside the adapter, then the adapter.

    The adapter is merged. On a quantised base it stays apart: a merge would be rounded to that base's few values.

    Args:
        model: base model, of full weights or quantised.
        folder: of the run's result.
        bits: bits per weight of the base.

    Raises:
        FileNotFoundError: when the adapter's weights are missing.
        ValueError: when the folder trains a tensor or a layer that the model lacks, or lacks some of its adapter, or
            its adapter cannot be loaded.
    """
    from pvit_ext.adapters.saved import SavedAdapter, loading

    config = config_of(model, folder, names_in(adapter_file(folder)), bits)
    if (folder / NON_LORA_FILE).is_file():
        load_non_lora_weights(model, folder, PEFT_PREFIX)
    with loading(folder):
        wrapped = SavedAdapter.from_pretrained(model, str(folder), config=config)
    return wrapped.merge_and_unload() if bits == 16 else wrapped.get_base_model()


def config_of(model: Any, folder: Path, names: Collection[str], bits: int = 16) -> Any:
    """A folder's config of peft, for exactly the layers that it has tensors of.

    Args:
        model: base model, with other adapters or without.
        folder: with an adapter.
        names: of the tensors in its :func:`adapter_file`.
        bits: of the base.

    Raises:
        ValueError: for an adapter that is refused, layers that the model lacks, or layers of the model that it lacks.
    """
    kind = config_class(str(read_json(folder / ADAPTER_CONFIG).get("peft_type")))  # peft 0.4's PeftConfig has no fields
    config = kind.from_pretrained(str(folder))
    try:
        refusals.check(config, bits=bits, training=False)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    layers = _layers_of(model, folder, names)
    wanted = getattr(config, "target_modules", None)
    if wanted and layers:  # LLaVA's last names mean layers of the vision tower as well; Uni-LoRA's are one vector
        if lacking := [layer for layer in adapted_layers(model, config) if layer not in layers]:
            raise ValueError(
                f"{folder}: its {ADAPTER_CONFIG} names {len(lacking)} layers of which its file has no tensors, such as "
                f"{lacking[0]}: fetch or save the adapter again"
            )
        config.target_modules = {layer for layer in layers if matches(wanted, layer)}
    config.task_type = None  # peft chooses the class of its wrapper by it
    _without_bias(config)
    return config


def adapter_file(folder: Path) -> Path:
    """The file with the tensors of an adapter.

    Args:
        folder: with it.

    Raises:
        FileNotFoundError: when they are missing.
    """
    names = [name for name in ("adapter_model.safetensors", "adapter_model.bin") if (folder / name).is_file()]
    if not names:
        raise FileNotFoundError(f"{folder} has {ADAPTER_CONFIG}, but no adapter_model.safetensors or .bin: fetch it")
    return folder / names[0]


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by peft's names.

    Args:
        folder: with them.

    Raises:
        FileNotFoundError: when they are missing.
    """
    return read_checkpoint(adapter_file(folder))


def split_adapter(model: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of an adapter, and the base's own that LLaVA keeps in the same file (``--lora_bias``).

    Args:
        model: base model, with other adapters or without.
        weights: of :func:`read_adapter`; the base's own get their names in it without adapters.
    """
    own = _of_base(model, weights)
    adapter = {key: value for key, value in weights.items() if key not in own}
    return adapter, {name: weights[key] for key, name in own.items()}


def _of_base(model: Any, names: Collection[str]) -> dict[str, str]:
    """Those names in an adapter's file that mean the base's own tensors, and their names in the base."""
    own = {plain_name(name) for name, _ in model.named_parameters()}
    plain = {name: plain_name(name.removeprefix(PEFT_PREFIX)) for name in names}
    return {name: found for name, found in plain.items() if found in own}


def _layers_of(model: Any, folder: Path, names: Collection[str]) -> set[str]:
    """Names in the base model of the layers that an adapter changes."""
    own = _of_base(model, names)
    keys = [name.removeprefix(PEFT_PREFIX) for name in names if name not in own and PEFT_PREFIX in name]
    layers = names_of_layers(model)
    found = {key: _layer(key, layers) for key in keys}
    if unknown := sorted(key for key, layer in found.items() if layer is None):
        raise ValueError(f"{folder} adapts layers that its base model lacks, such as {unknown[0]}: name another base")
    return {layer for layer in found.values() if layer is not None}


def _layer(name: str, layers: set[str]) -> str | None:
    """The layer that a tensor belongs to: the longest beginning of its name that is one."""
    while name and name not in layers:
        name = name.rpartition(".")[0]
    return name or None


def load_non_lora_weights(model: Any, folder: str | Path, prefix: str = "") -> None:
    """Load what trained beside an adapter.

    Args:
        model: base model, or peft's wrapper around it.
        folder: with :data:`NON_LORA_FILE`.
        prefix: of the file's names, which the model's lack.

    Raises:
        ValueError: when the folder trains a tensor that the model lacks.
    """
    own = plain_names(model)
    saved = read_checkpoint(Path(folder, NON_LORA_FILE))
    state = {plain_name(key.removeprefix(prefix)): value for key, value in saved.items()}
    if unexpected := sorted(state.keys() - own.keys()):
        raise ValueError(f"{folder} trained tensors that its base model lacks: {unexpected}")
    model.load_state_dict({own[key]: value for key, value in state.items()}, strict=False)
