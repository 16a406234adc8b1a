"""The arguments of ``load_pretrained_model``, in our spelling or in LLaVA's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from pvit_ext.config import RegionConfig

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
    """

    path: str
    base: str | None
    region_config: RegionConfig | None
    device: torch.device
    dtype: torch.dtype
    kwargs: dict[str, Any]
    names_dtype: bool = True

    @property
    def places_itself(self) -> bool:
        """Whether ``from_pretrained`` puts the model where it belongs, by a ``device_map``."""
        return self.kwargs.get("device_map") is not None

    @classmethod
    def of(cls, path: Any, base: Any, region_config: Any, device: Any, dtype: Any, kwargs: dict[str, Any]) -> LoadCall:
        """Read a call in either spelling.

        Raises:
            ValueError: when one argument is given twice, or cannot be met.
        """
        kwargs = dict(kwargs)
        _refuse_quantized(kwargs)
        _refuse_parts_of_a_repository(kwargs)
        path, base = _one("path", path, kwargs, "model_path"), _one("base", base, kwargs, "model_base")
        if not path:
            raise ValueError("no checkpoint was named: give its folder or hub id first")
        path, base = os.path.expanduser(path), base and os.path.expanduser(base)
        kwargs.pop("model_name", None)  # LLaVA guesses the kind of a checkpoint from it, we read the files
        if isinstance(region_config, str):  # LLaVA's model_name, the third argument of its call
            region_config = None
        if region_config is not None and not isinstance(region_config, RegionConfig):
            raise ValueError(f"region_config is a {type(region_config).__name__}: give a pvit_ext.RegionConfig")
        if kwargs.pop("use_flash_attn", False):
            kwargs.setdefault("attn_implementation", "flash_attention_2")
        target = _device(device)
        kind = _dtype(_one("dtype", dtype, kwargs, "torch_dtype"))
        default = torch.float16 if target.type == "cuda" else torch.float32
        return cls(str(path), base and str(base), region_config, target, kind or default, kwargs, kind is not None)


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


def _refuse_quantized(kwargs: dict[str, Any]) -> None:
    names = ("load_8bit", "load_4bit", "load_in_8bit", "load_in_4bit", "quantization_config")
    if asked := [name for name in names if kwargs.get(name)]:
        raise ValueError(
            f"{asked[0]} was asked for, but pvit-ext does not load quantized models yet: leave it out and give "
            'dtype="bfloat16" or "float16"'
        )
    for name in names:
        kwargs.pop(name, None)
