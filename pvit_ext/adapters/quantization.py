"""A language model in 4 or 8 bits by bitsandbytes, to answer, or for an adapter to learn on (QLoRA, arXiv 2305.14314).

Vision tower, projectors and region modules are never quantised: they keep the model's dtype.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.files import read_json

BITS = (4, 8)
KINDS = ("nf4", "fp4")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantization:
    """How the language model's linear layers are stored.

    Args:
        bits: 4 or 8.
        kind: kind of 4 bits, ``nf4`` or ``fp4``.
        double: whether the scales of 4 bits are quantised too.

    Raises:
        ValueError: for another number or kind, or if bitsandbytes is missing.
    """

    bits: int
    kind: str = "nf4"
    double: bool = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"a model in {self.bits} bits was asked for: give 4 or 8, or 16 for the model's dtype")
        if self.kind not in KINDS:
            raise ValueError(f"4 bits of kind {self.kind!r}: give {' or '.join(KINDS)}")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(f"a model in {self.bits} bits needs bitsandbytes: pip install 'pvit-ext[qlora]'")

    @classmethod
    def of_arguments(cls, arguments: Any) -> Quantization | None:
        """The quantization that a run's flags ask for.

        Args:
            arguments: with LLaVA's ``bits``, ``quant_type`` and ``double_quant``.
        """
        if arguments.bits == 16:
            return None
        return cls(arguments.bits, arguments.quant_type, arguments.double_quant)

    @classmethod
    def of_config(cls, values: Mapping[str, Any] | None) -> Quantization | None:
        """The quantization of the base that an adapter was trained on, from config.json.

        Args:
            values: its ``quantization_config``.
        """
        if not values or values.get("quant_method", "bitsandbytes") != "bitsandbytes":
            return None
        kind, double = values.get("bnb_4bit_quant_type", "nf4"), values.get("bnb_4bit_use_double_quant", False)
        return cls(4, kind, double) if values.get("load_in_4bit") else cls(8) if values.get("load_in_8bit") else None

    @classmethod
    def of_folder(cls, folder: Path) -> Quantization | None:
        """The quantization of the base that a folder's adapter was trained on; None for the base's own dtype.

        Args:
            folder: with a config.json, or without one.
        """
        config = folder / "config.json"
        return cls.of_config(read_json(config).get("quantization_config")) if config.is_file() else None

    @classmethod
    def of_model(cls, model: Any) -> Quantization | None:
        """How a loaded model is quantised; None for its dtype.

        Args:
            model: of either host.
        """
        found = getattr(model.config, "quantization_config", None)
        return cls.of_config(found if found is None or isinstance(found, dict) else found.to_dict())

    def options(self, dtype: torch.dtype, device: Any, skipped: Sequence[str]) -> dict[str, Any]:
        """Keywords of ``from_pretrained``.

        Args:
            dtype: in which layers compute.
            device: of the model.
            skipped: names of modules that are not quantised.
        """
        from transformers import BitsAndBytesConfig

        _say_once()
        config = BitsAndBytesConfig(
            load_in_4bit=self.bits == 4,
            load_in_8bit=self.bits == 8,
            llm_int8_skip_modules=list(skipped),
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.double,
        )
        return {"quantization_config": config, "device_map": {"": device}}

    @property
    def keyword(self) -> str:
        """What :func:`~pvit_ext.load_pretrained_model` is told for it."""
        usual = self == Quantization(self.bits)
        return f"load_{self.bits}bit=True" if usual else f"quantization_config=BitsAndBytesConfig(...) of {self}"

    def __str__(self) -> str:
        """A few words for the log."""
        scales = "" if self.double else ", full scales"
        return f"4 bits ({self.kind}{scales})" if self.bits == 4 else "8 bits"


class _Once(logging.Filter):
    """Passes each message the first time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is new."""
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


def _say_once() -> None:
    """Keep bitsandbytes from saying for each layer in 8 bits that its inputs are cast."""
    theirs = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(isinstance(one, _Once) for one in theirs.filters):
        theirs.addFilter(_Once())


def check_trained_bits(folder: Path, own: Quantization | None) -> None:
    """Refuse an adapter that was trained on a base in few bits, for a model in others or in its dtype.

    Such an adapter corrects the rounding of its own base as well. One that was trained on a base in its dtype is a
    warning for a model in few bits, whose rounding it has not seen.

    Args:
        folder: of the adapter.
        own: of the model.

    Raises:
        ValueError: saying how to load the model.
    """
    if (trained := Quantization.of_folder(folder)) == own:
        return
    text = f"{folder} was trained on a base in {trained or 'its dtype'}, and the model is in {own or 'its dtype'}"
    if trained is not None:
        raise ValueError(f"{text}: load the model in the same bits ({trained.keyword}), or merge")
    logger.warning("%s: its answers are off by the rounding", text)


def is_quantized(parameter: Tensor) -> bool:
    """Whether a parameter is bitsandbytes' own."""
    return type(parameter).__name__ in ("Params4bit", "Int8Params")


def count(parameter: Tensor) -> int:
    """The number of weights in a parameter; in 4 bits a byte holds two, and under ZeRO-3 the tensor is empty."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(torch.Size(state.shape).numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))
