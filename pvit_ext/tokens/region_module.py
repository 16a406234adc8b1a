"""Encoder and projector as one module, from regions to tokens; a config makes it without any model around it.

LION's parts, which a host puts elsewhere, are children of it too, so that they are stored and replaced with the rest.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvit_ext.adapters.lion.parts import (
    PARTS,
    build_parts,
    check_same,
    described,
    starts_at_random,
    tensors_go_by,
)
from pvit_ext.config import EncoderFacts, RegionConfig, regions_to_json
from pvit_ext.distributed import gathered
from pvit_ext.encoders.base import RegionEncoder, RegionInputs, build_region_encoder
from pvit_ext.encoders.weights import read_checkpoint, shapes
from pvit_ext.tokens.encoder_file import load_encoder_file
from pvit_ext.tokens.projector import RegionProjector
from pvit_ext.tokens.serialization import MODULES_FILE, copy_state, read_region_config, write_region_files

_OF_PROJECTOR = ("box_embedding", "cross_layers")

logger = logging.getLogger(__name__)


class RegionModule(nn.Module):
    """A region encoder and the region projector behind it.

    Args:
        config: what the user chose; :attr:`config` has its defaults decided.
        hidden_size: D, width of the language model.
        tower_config: of the host's vision tower, for encoders and cross layers that read its features.
        facts: from the checkpoint that the tensors will be loaded from. An encoder that lives in a file of its own is
            then not built: :meth:`read_encoder` does so.
        encoder: to take in place of a new one.
        blocks: of the language model; only LION's adapters need to know.

    Attributes:
        region_encoder: None until :meth:`read_encoder`.

    Raises:
        ValueError: when the encoder cannot be built, or an option does not apply to it.
    """

    region_encoder: RegionEncoder | None
    region_projector: RegionProjector

    def __init__(
        self,
        config: RegionConfig,
        hidden_size: int,
        tower_config: Any = None,
        facts: EncoderFacts | None = None,
        encoder: RegionEncoder | None = None,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        if encoder is None and (facts is None or encoder_is_embedded(config)):
            encoder = build_region_encoder(config, tower_config)
        if encoder is not None:
            digest = None if facts is None else facts.weights_sha256
            facts = EncoderFacts(encoder.feature_dim, encoder.tokens_per_region, digest)
            # What a stage trains is no longer what the file holds.
            config = replace(config, embed_weights=config.embed_weights or not encoder.frozen)
        assert facts is not None
        self.config, self.facts = config.resolved(facts.tokens_per_region), facts
        self.region_encoder = encoder
        self.region_projector = RegionProjector(self.config, facts, hidden_size, tower_config)
        for name, part in build_parts(self.config, hidden_size, tower_config, blocks).items():
            self.add_module(name, part)

    @classmethod
    def over(
        cls,
        config: RegionConfig,
        facts: EncoderFacts,
        encoder: RegionEncoder | None,
        projector: RegionProjector,
        lion: Mapping[str, nn.Module] | None = None,
    ) -> RegionModule:
        """A region module of parts that are there already, for a host that registers them under names of its own."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module.config, module.facts = config, facts
        module.region_encoder, module.region_projector = encoder, projector
        for name, part in (lion or {}).items():
            module.add_module(name, part)
        return module

    @property
    def lion(self) -> dict[str, nn.Module]:
        """LION's parts that the config asks for, by their names in :data:`~pvit_ext.adapters.lion.parts.PARTS`."""
        return {name: part for name, part in self.named_children() if name in PARTS}

    @property
    def added_parts(self) -> dict[str, Any]:
        """Parts that a stage may add, by the beginnings of their tensors' names: a checkpoint may lack them.

        Each has a ``reset()`` that gives it its start values. It then changes nothing until it is trained, unless it is
        one of those that start at random: see :func:`~pvit_ext.adapters.lion.parts.starts_at_random`.
        """
        found = {f"region_projector.{name}": getattr(self.region_projector, name, None) for name in _OF_PROJECTOR}
        return {name: part for name, part in found.items() if part is not None} | self.lion

    @property
    def positions_per_region(self) -> int:
        """S, positions of the prompt that one region takes: T, and two more with delimiters."""
        return self.facts.tokens_per_region + 2 * bool(self.config.delimiters)

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Region tokens (M, S, D): the encoder's features through the region projector."""
        if self.region_encoder is None:
            raise ValueError("the encoder's weights file has not been read: call read_encoder() first")
        if self.region_projector.features is None:
            raise ValueError(f"{self.config.encoder!r} gives no features (T = 0): it shows regions by text and pixels")
        features = self.region_encoder(inputs)  # (M, T, C)
        weight = next(self.region_projector.features.parameters())
        geometry = inputs.boxes_norm, inputs.context_map, inputs.image_index
        return self.region_projector(features.to(weight.dtype), *geometry)  # (M, S, D)

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose tensors belong into a checkpoint, by name; not an encoder that has a file of its own."""
        parts: dict[str, nn.Module] = {"region_projector": self.region_projector, **self.lion}
        if encoder_is_embedded(self.config) and self.region_encoder is not None:
            parts["region_encoder"] = self.region_encoder
        return parts

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of the tensors of :meth:`parts`, also under ZeRO-3 (then every rank has to call this)."""
        state: dict[str, Tensor] = {}
        plain = torch.contiguous_format  # else safetensors refuses to write it
        for name, part in self.parts().items():
            with gathered(list(part.parameters())):
                found = part.state_dict().items()
                state |= {f"{name}.{key}": value.detach().cpu().clone(memory_format=plain) for key, value in found}
        return state

    def fill(self, tensors: dict[str, Tensor], origin: Path) -> None:
        """Copy tensors into :meth:`parts`.

        :attr:`added_parts` that the tensors lack stay as they are (a stage adds them); every other difference is an
        error.

        Args:
            tensors: by their names in :meth:`tensors`.
            origin: their file, for messages.

        Raises:
            ValueError: listing missing, unexpected and misshapen tensors.
        """
        parts = self.parts()
        with gathered([parameter for part in parts.values() for parameter in part.parameters()], write=True):
            own = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
            copy_state(tensors, own, origin, tuple(f"{name}." for name in self.added_parts))

    def save(
        self, folder: str | os.PathLike[str], base: str | None = None, write: bool = True, adapter: bool = False
    ) -> None:
        """Write tensors and config into a folder; see :func:`~pvit_ext.save_region_modules`."""
        tensors = self.tensors()
        if write:
            write_region_files(folder, tensors, regions_to_json(self.config, self.facts), base, adapter)

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Fill this module with what :meth:`save` wrote into a folder; see :func:`~pvit_ext.load_region_modules`."""
        path = Path(folder, MODULES_FILE)
        check_same(folder, read_region_config(folder).config, self.config, self.lion)
        self.fill(read_checkpoint(path), path)

    def transplant(self, old: RegionModule, filled_later: Iterable[str] = ()) -> set[str]:
        """Copy each old part whose tensors all have the new one's shapes; say what starts anew, and what goes.

        What has the same shapes and is for something else starts anew too: adapters of other tasks, an aggregator of
        other layers. The encoder is kept by making this module with it: see :func:`successor`.

        Args:
            old: is left as it is.
            filled_later: tensors that a file brings, by their names in :meth:`tensors`: their parts are passed over.

        Returns:
            The parts that are kept, by the beginnings of their tensors' names.
        """
        before, after = old._replaced_parts(), self._replaced_parts()
        for name in (name for name in before if name not in after):
            logger.warning("%s goes: the new region modules have none", _said(name))
        brought = {name for name in after if any(tensor.startswith(f"{name}.") for tensor in filled_later)}
        stay, kept = [(name, part) for name, part in after.items() if name in before and name not in brought], set()
        with gathered([parameter for part in before.values() for parameter in part.parameters()]):
            for name, part in stay:
                if tensors_go_by(name, part, self.config) == tensors_go_by(name, before[name], old.config):
                    kept |= {name} if _keep_if_it_fits(_said(name), before[name], part) else set()
                else:
                    said = described(name, old.config), described(name, self.config)
                    logger.warning("%s starts anew, the old module has %s, not %s", name, *said)
        return kept

    def _replaced_parts(self) -> dict[str, nn.Module]:
        """Everything but the encoder, by the beginnings of their tensors' names in :meth:`tensors`."""
        return {f"region_projector.{name}": part for name, part in self.region_projector.named_children()} | self.lion

    def read_encoder(self, tower_config: Any = None, checkpoint: str | os.PathLike[str] = ".") -> RegionEncoder:
        """Give an encoder that lives in a file of its own its weights; build it first where there is none.

        Args:
            tower_config: of the host's vision tower.
            checkpoint: folder in which a relative file name is looked up too.

        Returns:
            The encoder.

        Raises:
            FileNotFoundError: listing where the file was looked for.
            ValueError: when the file's checksum is not that of :attr:`facts`.
        """
        if (encoder := self.region_encoder) is None:
            self.region_encoder = encoder = build_region_encoder(self.config, tower_config)
        self.facts = load_encoder_file(encoder, self.config, self.facts, Path(checkpoint))
        return encoder

    def freeze(self) -> None:
        """Freeze an encoder that no stage trains, and put it into eval mode; transformers may have undone both."""
        if (encoder := self.region_encoder) is not None:
            encoder.requires_grad_(not encoder.frozen).eval()

    def reset_missing(self, missing: Iterable[str]) -> set[str]:
        """Start each of :attr:`added_parts` anew where all its tensors are missing.

        Args:
            missing: tensors that a checkpoint lacks, by their names in :meth:`tensors`.

        Returns:
            The others that are missing.
        """
        others = set(missing)
        for name, part in self.added_parts.items():
            own = {f"{name}.{key}" for key in part.state_dict()}
            if not own <= others:
                continue
            if any(parameter.is_meta for parameter in part.parameters()):
                part.to_empty(device="cpu")
            with gathered(list(part.parameters()), write=True):
                part.reset()
            others -= own
            if starts_at_random(name, self.config):
                logger.warning("the checkpoint has no %s: it starts at random; train it", name)
            else:
                logger.info("the checkpoint has no %s: it changes nothing until it is trained", name)
        return others

    def has_encoder_of(self, config: RegionConfig, sha256: str | None = None) -> bool:
        """Whether this module's encoder is there, and is the one that a config names.

        Args:
            config: may name another.
            sha256: of its weights file, where that is known.
        """
        same_file = sha256 in (None, self.facts.weights_sha256)
        return self.region_encoder is not None and same_file and same_encoder(self.config, config)


def encoder_is_embedded(config: RegionConfig) -> bool:
    """Whether the encoder's tensors live in the checkpoint: when asked for, and whenever no file holds them."""
    return config.embed_weights or not config.weights


def same_encoder(one: RegionConfig, other: RegionConfig) -> bool:
    """Whether two configs name the same encoder with the same options and weights file."""
    first, second = ([c.encoder, c.encoder_options or {}, c.weights or None] for c in (one, other))
    as_saved = partial(json.dumps, sort_keys=True)  # there a tuple is a list, and keys have transformers' order
    return as_saved(first) == as_saved(second)


def _said(name: str) -> str:
    """A part's name in messages."""
    return name.replace("region_projector.", "region projector: ")


def _keep_if_it_fits(name: str, before: nn.Module, part: nn.Module) -> bool:
    if fits := (found := shapes(before.state_dict())) == (wanted := shapes(part.state_dict())):
        part.load_state_dict(before.state_dict())
        logger.info("%s is kept", name)
    else:
        logger.warning("%s starts anew, the old one %s does not fit %s", name, found, wanted)
    return fits
