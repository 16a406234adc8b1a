"""The arguments of ``load_pretrained_model``, in our spelling or in LLaVA's."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pvit_ext.adapters.quantization import BITS, Quantization, check_trained_bits
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import REGION_ENCODERS

logger = logging.getLogger(__name__)

_OURS = ("device", "dtype")
_LLAVAS = ("load_8bit", "load_4bit", "device_map", "device", "use_flash_attn")
"""Arguments that may be positional, behind the third."""
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_DTYPES |= {"fp16": torch.float16, "half": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class LoadCall:
    """One call, checked.

    Args:
        path: folder or hub id.
        base: checkpoint under it.
        region_config: encoder to attach.
        device: where inputs go.
        dtype: of the model, by default that of LLaVA's function.
        kwargs: for ``from_pretrained``.
        names_dtype: the caller chose ``dtype``.
        quantization: of the language model; None for its dtype, or for that of the adapter's training.
        as_trained: whether the base of an adapter is loaded as it was in the adapter's training.
    """

    path: str
    base: str | None
    region_config: RegionConfig | None
    device: torch.device
    dtype: torch.dtype
    kwargs: dict[str, Any]
    names_dtype: bool = True
    quantization: Quantization | None = None
    as_trained: bool = True

    @property
    def places_itself(self) -> bool:
        """Whether ``from_pretrained`` puts the model where it belongs, by a ``device_map``."""
        return self.kwargs.get("device_map") is not None or self.quantization is not None

    @classmethod
    def of(cls, path: Any, base: Any, region_config: Any, device: Any, dtype: Any, kwargs: dict[str, Any]) -> LoadCall:
        """Read a call in either spelling.

        Raises:
            ValueError: when one argument is given twice, or cannot be met.
        """
        kwargs = dict(kwargs)
        quantization = _quantization(kwargs)
        _refuse_parts_of_a_repository(kwargs)
        path, base = _one("path", path, kwargs, "model_path"), _one("base", base, kwargs, "model_base")
        if not path:
            raise ValueError("no checkpoint was named: give its folder or hub id first")
        path, base = os.path.expanduser(path), base and os.path.expanduser(base)
        kwargs.pop("model_name", None)  # LLaVA guesses the kind of a checkpoint from it, we read the files
        if isinstance(region_config, str):
            _refuse_encoder(region_config)
            raise ValueError(f"region_config={region_config!r} is a text: give a pvit_ext.RegionConfig")
        if region_config is not None and not isinstance(region_config, RegionConfig):
            raise ValueError(f"region_config is a {type(region_config).__name__}: give a pvit_ext.RegionConfig")
        if kwargs.pop("use_flash_attn", False):
            kwargs.setdefault("attn_implementation", "flash_attention_2")
        target = _device(device)
        kind = _one("dtype", _dtype(dtype), {"torch_dtype": _dtype(kwargs.pop("torch_dtype", None))}, "torch_dtype")
        default = torch.float16 if target.type == "cuda" else torch.float32
        halves = kind or default
        return cls(str(path), base and str(base), region_config, target, halves, kwargs, kind is not None, quantization)

    def for_adapter(self, folder: Path) -> LoadCall:
        """The call for the base under an adapter: quantised as it was in training, unless the call says how.

        Args:
            folder: of the adapter.

        Raises:
            ValueError: when the call asks for few bits, and the adapter was trained on other few bits.
        """
        if not self.as_trained:
            return self
        if self.quantization is not None:
            check_trained_bits(folder, self.quantization)
            return self
        found = Quantization.of_folder(folder)
        if found is not None:
            logger.info("%s was trained on a base in %s, which is used again; merge it for full weights", folder, found)
        return replace(self, quantization=found)

    def model_options(self, skipped: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
        """Keywords of ``from_pretrained`` beside the dtype.

        Args:
            skipped: names in the model that are not quantised.
            dtype: of the model.
        """
        if self.quantization is None:
            return self.kwargs
        given = {name: value for name, value in self.kwargs.items() if name != "device_map" or value is not None}
        return {**self.quantization.options(dtype, self.device, skipped), **given}


def name_positional(path: str | None, values: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Name the positional arguments behind the second: ours, or LLaVA's.

    The third is ``region_config``, or LLaVA's ``model_name``, a text. LLaVA's others begin with a bool.

    Args:
        path: the first argument; LLaVA's users make ``model_name`` of its end.
        values: the positional arguments behind the second.
        given: arguments by name, None where they are not given.

    Raises:
        TypeError: for too many, and for one that is given by name too.
        ValueError: for the name of a region encoder in place of its config.
    """
    third, rest = values[:1], values[1:]
    names = _LLAVAS if rest and isinstance(rest[0], bool) else _OURS
    if len(rest) > len(names):
        raise TypeError(f"{len(rest)} positional arguments behind the third: there may be {', '.join(names)}")
    named = dict(zip(names, rest, strict=False))
    if third and isinstance(third[0], str):
        if third[0] != Path(path or "").name:
            _refuse_encoder(third[0])
    elif third:
        named["region_config"] = third[0]
    if twice := [name for name in named if given.get(name) is not None]:
        raise TypeError(f"{twice[0]} is given twice, by position and by name: give one of them")
    return given | named


def _refuse_encoder(text: str) -> None:
    if REGION_ENCODERS.find(text) is not None:
        raise ValueError(f'{text!r} names a region encoder: give region_config=pvit_ext.RegionConfig("{text}")')


def _one(name: str, value: Any, kwargs: dict[str, Any], other: str) -> Any:
    again = kwargs.pop(other, None)
    if value and again and value != again:
        raise ValueError(f"{name}={value!r} and {other}={again!r} mean the same: give one of them")
    return value or again


def _device(device: Any) -> torch.device:
    try:
        target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known: give cpu, cuda, cuda:1 or another of torch's") from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if target.type == "cuda" and (target.index or 0) >= found:
        raise ValueError(
            f"device {str(target)!r} was asked for, but this torch ({torch.__version__}) sees {found or 'no'} CUDA "
            f"device{'s' if found > 1 else ''}"
        )
    return target


def _dtype(value: Any) -> torch.dtype | None:
    if value is None or isinstance(value, torch.dtype):
        return value
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype {value!r} is not known: give a torch.dtype or one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _refuse_parts_of_a_repository(kwargs: dict[str, Any]) -> None:
    """Refuse them: they would reach only the weights, not config, tokenizer and processor."""
    if asked := [name for name in ("revision", "subfolder") if kwargs.get(name)]:
        raise ValueError(
            f"{asked[0]}={kwargs[asked[0]]!r} was asked for, but a checkpoint is read from a folder or the main branch "
            "of a repository: download it (hf download REPO --revision ... --local-dir DIR) and name the folder"
        )


def _quantization(kwargs: dict[str, Any]) -> Quantization | None:
    """The quantization that LLaVA's ``load_4bit`` and ``load_8bit`` ask for, or transformers' own spelling."""
    given = kwargs.pop("quantization", None)
    asked = {bits: [kwargs.pop(name, False) for name in (f"load_{bits}bit", f"load_in_{bits}bit")] for bits in BITS}
    bits = [one for one, values in asked.items() if any(values)]
    if config := kwargs.pop("quantization_config", None):
        values = config if isinstance(config, dict) else config.to_dict()
        if (found := Quantization.of_config(values)) is None:
            raise ValueError("quantization_config: only 4 or 8 bits of bitsandbytes load; give a BitsAndBytesConfig")
        return found
    if len(bits) > 1:
        raise ValueError("load_4bit and load_8bit were both asked for: give one of them")
    return Quantization(bits[0]) if bits else given
