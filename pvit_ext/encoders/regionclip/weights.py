"""Reading RegionCLIP and CLIP ResNet checkpoints into the folded layout: all tensors, or an error that lists why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from pvit_ext.encoders.weights import StateDict, check_fits, read_checkpoint, shapes

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
"""Prefixes of keys beside the visual tower in a checkpoint without a prefix; other unknown keys are an error."""


def load_visual(module: nn.Module, path: str) -> None:
    """Load a checkpoint's visual tower into a :class:`~pvit_ext.encoders.regionclip.clip_resnet.CLIPResNet`.

    Args:
        module: the tower; its parameters keep their dtype, device and strides.
        path: torch or safetensors file; ``{"model": {...}}`` or a bare dict; keys under ``backbone.``, ``visual.`` or
            no prefix; CLIP's layout with batch norms, or the folded ``state_dict`` of the module.

    Raises:
        ValueError: unless every tensor is there, with the right shape, and no other is.
    """
    given = select_visual(read_checkpoint(path))
    folded = shapes(module.state_dict())
    original = any(key.endswith("running_var") for key in given)
    check_fits(module, given, original_shapes(folded) if original else folded, path)
    module.load_state_dict(fold(given, folded) if original else given)


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
    original = {}
    for key, shape in folded.items():
        layer, leaf = key.rsplit(".", 1)
        if layer == "attnpool.positional_embedding":
            original[layer] = shape
        elif layer.startswith("attnpool."):
            original[key] = shape
            original[f"{layer}.bias"] = shape[:1]  # k_proj's is left out of the folded layout
        elif leaf == "weight":
            original[key] = shape
        else:
            original.update({f"{batch_norm_of(layer)}.{name}": shape for name in BATCH_NORM})
    return original


def batch_norm_of(conv: str) -> str:
    """CLIP's name of the batch norm behind a convolution: conv2 -> bn2, downsample.0 -> downsample.1."""
    parent, _, leaf = conv.rpartition(".")
    name = "1" if leaf == "0" else leaf.replace("conv", "bn")
    return f"{parent}.{name}" if parent else name


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
