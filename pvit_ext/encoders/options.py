"""Reading ``RegionConfig.encoder_options`` and the vision tower's sizes, for encoders that look at its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.value_types import check_types

Options = TypeVar("Options")
EncoderT = TypeVar("EncoderT", bound=RegionEncoder)


def builder(encoder: type[EncoderT], options: type[Any], reads_tower: bool = True) -> Callable[..., EncoderT]:
    """The function that builds an encoder from ``config.encoder_options`` and the config of the vision tower.

    Args:
        encoder: its class, called with its options, and with the tower's config if it reads the tower.
        options: dataclass of what ``encoder_options`` may hold.
        reads_tower: the encoder reads the vision tower's features.

    Returns:
        a function that raises ValueError for an unknown or impossible option, or a tower that lacks what is read.
    """

    def build(config: RegionConfig, tower_config: Any = None) -> EncoderT:
        tower = [check_tower(tower_config, encoder.name)] if reads_tower else []
        return encoder(read_options(options, config.encoder_options, encoder.name), *tower)

    return build


def read_options(
    kind: type[Options], given: dict[str, Any] | None, name: str, variants: str = "", **defaults: Any
) -> Options:
    """An options dataclass from ``RegionConfig.encoder_options``; lists, which JSON has for tuples, become tuples.

    Args:
        kind: the dataclass.
        given: ``encoder_options``; None for none.
        name: of the encoder.
        variants: name of the option that chooses a variant, for the message.
        defaults: values of the chosen variant, instead of the dataclass's own.

    Raises:
        ValueError: for an unknown option, and a value of another type.
    """
    assert is_dataclass(kind)
    given = given or {}
    known = [item.name for item in fields(kind)]
    if unknown := sorted(set(given) - set(known)):
        known = [variants] * bool(variants) + known
        raise ValueError(f"unknown {name} options {unknown}; known: {', '.join(known)}")
    check_types(kind, given, f"{name} option")
    values = {**defaults, **given}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_tower(tower_config: Any, name: str) -> Any:
    """The config of the vision tower.

    Raises:
        ValueError: when there is none, or it lacks the sizes that encoders need.
    """
    needed = ("hidden_size", "num_hidden_layers", "patch_size")
    if missing := [item for item in needed if not hasattr(tower_config, item)]:
        raise ValueError(f"region encoder {name!r} reads the vision tower's features; its config lacks {missing}")
    return tower_config


def check_layers(
    layers: Sequence[int] | None, tower_config: Any, levels: int = 4, pyramid: bool = False
) -> tuple[int, ...]:
    """Hidden layers to read: the given ones, or some that are spread over the tower's second half.

    For a CLIP-L these are -11, -8, -5 and -2, as in GPT4RoI. -1 is not among them: LLaVA does not read it either. The
    layers of a pyramid, a tower with ``feature_widths``, are its maps, and all of them are read by default.

    Args:
        layers: the option, or None.
        tower_config: of the vision tower.
        levels: how many layers to read by default.
        pyramid: the encoder reads maps of any width and stride.

    Raises:
        ValueError: for a layer the tower does not have, or a pyramid that the encoder cannot read.
    """
    if (widths := getattr(tower_config, "feature_widths", None)) is not None:
        return _check_maps(layers, widths, tower_config, pyramid)
    depth = tower_config.num_hidden_layers
    if layers is None:
        step, levels = max(depth // 8, 1), min(levels, depth)
        return tuple(range(-2 - step * (levels - 1), -1, step))
    if not layers or any(not -depth - 1 <= layer <= depth for layer in layers):
        raise ValueError(f"the tower has hidden layers {-depth - 1} to {depth}, got {list(layers)}")
    return tuple(layers)


def _check_maps(
    layers: Sequence[int] | None, widths: Sequence[int], tower_config: Any, pyramid: bool
) -> tuple[int, ...]:
    count = len(widths)
    layers = tuple(range(count)) if layers is None else tuple(layers)
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ValueError(f"the tower has feature maps {-count} to {count - 1}, got {list(layers)}")
    read = {(widths[layer], tower_config.feature_strides[layer]) for layer in layers}
    if not pyramid and read != {(tower_config.hidden_size, tower_config.patch_size)}:
        wanted = f"width {tower_config.hidden_size} and stride {tower_config.patch_size}"
        found = f"(width, stride) {sorted(read)}"
        raise ValueError(f"this encoder reads maps of {wanted}, the tower's have {found}: choose layers, or osprey")
    return layers
