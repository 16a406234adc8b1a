"""Reading RegionCLIP and CLIP ResNet checkpoints into the folded layout: all of it, or an error that lists why."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-5
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
PREFIXES = ("backbone.", "visual.", "")
"""RegionCLIP's, OpenAI CLIP's and no prefix, in this order."""
NOT_VISUAL = (
    "lang_encoder.",
    "teacher_backbone.",
    "offline_",
    "proposal_generator.",
    "roi_heads.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
    "input_resolution",
    "context_length",
    "vocab_size",
)
"""Beginnings of keys beside the visual tower in a checkpoint without a prefix; other unknown keys are an error."""
LISTED = 10

StateDict = dict[str, Tensor]


def load_visual(module: nn.Module, path: str) -> None:
    """Load a checkpoint's visual tower into a :class:`~pvit_ext.encoders.clip_resnet.CLIPResNet`.

    Args:
        module: the tower; its parameters keep their dtype, device and strides.
        path: torch or safetensors file; ``{"model": {...}}`` or a bare dict; keys under ``backbone.``, ``visual.`` or
            no prefix; CLIP's layout with batch norms, or the folded ``state_dict`` of the module.

    Raises:
        ValueError: unless every tensor is there, with the right shape, and no other is.
    """
    given = select_visual(read_checkpoint(path))
    folded = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    original = any(key.endswith("running_var") for key in given)
    problems = differences(original_shapes(folded) if original else folded, given)
    if problems:
        raise ValueError(f"{path} does not fit this tower, nothing was loaded. " + "; ".join(problems))
    if any(parameter.is_meta for parameter in module.parameters()):
        raise ValueError(f"cannot load {path} into a tower on the meta device; build it outside the meta context")
    module.load_state_dict(fold(given, folded) if original else given)


def read_checkpoint(path: str) -> StateDict:
    """The tensors of a torch or safetensors file; code in it is never run.

    Raises:
        ValueError: when the file is a TorchScript archive, or holds something else than tensors.
    """
    if path.endswith(".safetensors"):
        return load_file(path)
    try:
        _refuse_torchscript(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is not a plain state dict ({str(error).splitlines()[0]}). If it is one of OpenAI's TorchScript "
            "archives and you trust it, convert it once: torch.save(torch.jit.load(path).state_dict(), new_path)"
        ) from error
    content = _unwrap(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _refuse_torchscript(path: str) -> None:
    """torch 2.0 loads such an archive, code and all, even where only weights are asked for; later ones refuse it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise pickle.UnpicklingError("a TorchScript archive")


def _unwrap(content: Any) -> Any:
    inner = content.get("model") if isinstance(content, Mapping) else None
    return inner if isinstance(inner, Mapping) else content


def select_visual(tensors: StateDict) -> StateDict:
    """The visual tower's tensors without their prefix; batch counters and everything beside the tower are left out."""
    prefix = next((p for p in PREFIXES if any(key.startswith(p + "conv1.") for key in tensors)), "")
    named = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    beside = () if prefix else NOT_VISUAL
    return {
        key: v for key, v in named.items() if not key.endswith("num_batches_tracked") and not key.startswith(beside)
    }


def original_shapes(folded: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of CLIP's layout for a tower of this folded layout."""
    shapes = {}
    for key, shape in folded.items():
        layer, leaf = key.rsplit(".", 1)
        if layer == "attnpool.positional_embedding":
            shapes[layer] = shape
        elif layer.startswith("attnpool."):
            shapes[key] = shape
            shapes[f"{layer}.bias"] = shape[:1]  # k_proj's is left out of the folded layout
        elif leaf == "weight":
            shapes[key] = shape
        else:
            shapes.update({f"{batch_norm_of(layer)}.{name}": shape for name in BATCH_NORM})
    return shapes


def batch_norm_of(conv: str) -> str:
    """CLIP's name of the batch norm behind a convolution: conv2 -> bn2, downsample.0 -> downsample.1."""
    parent, _, leaf = conv.rpartition(".")
    name = "1" if leaf == "0" else leaf.replace("conv", "bn")
    return f"{parent}.{name}" if parent else name


def differences(expected: Mapping[str, tuple[int, ...]], given: StateDict) -> list[str]:
    """What is missing, unexpected or of another shape, in words; empty when all fits."""
    shapes = {key: tuple(given[key].shape) for key in given.keys() & expected.keys()}
    wrong = [
        f"{key} {shapes[key]} instead of {expected[key]}" for key in sorted(shapes) if shapes[key] != expected[key]
    ]
    lists = {
        "missing": sorted(expected.keys() - given.keys()),
        "unexpected": sorted(given.keys() - expected.keys()),
        "of another shape": wrong,
    }
    return [f"{len(keys)} of {len(expected)} {what}: {_listed(keys)}" for what, keys in lists.items() if keys]


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")


def fold(given: StateDict, folded: Iterable[str]) -> StateDict:
    """CLIP's layout -> folded layout: each batch norm goes into its convolution, computed in float64."""
    result = {}
    for key in folded:
        layer, leaf = key.rsplit(".", 1)
        if layer == "attnpool.positional_embedding":
            result[key] = given[layer]
        elif layer.startswith("attnpool."):
            result[key] = given[key]
        elif leaf == "weight":
            result[key], result[f"{layer}.bias"] = _fold_conv(given, layer)
    return result


def _fold_conv(given: StateDict, layer: str) -> tuple[Tensor, Tensor]:
    norm = batch_norm_of(layer)
    weight, bias, mean, variance = (given[f"{norm}.{name}"].double() for name in BATCH_NORM)
    scale = weight / (variance + BATCH_NORM_EPS).sqrt()
    return given[f"{layer}.weight"].double() * scale.view(-1, 1, 1, 1), bias - mean * scale
