"""config.json of a LLaVA of LLaVA's own code, and of transformers."""

from __future__ import annotations

import ast
from typing import Any

from pvit_ext.config import CONFIG_KEY
from pvit_ext.hosts.llava.image_layout import tell_unknown_words
from pvit_ext.hosts.transformers.facts import HOST_KEY, HostFacts
from pvit_ext.tools.convert.tower import Tower

LANGUAGE_MODELS = {"llava_llama": "llama", "llava": "llama", "llava_mistral": "mistral"}
"""transformers' ``model_type`` of the language model of LLaVA's; ``llava`` is LLaVA-1.0's and 1.5's older name."""

ARCHITECTURES = {
    "llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
}
"""transformers' ``model_type`` of a language model -> LLaVA's ``model_type`` and class on it."""


def check_is_convertible(host: Any) -> None:
    """Refuse a LLaVA that transformers' classes cannot hold, and tell words of its config that LLaVA takes for others.

    Args:
        host: LLaVA's config.

    Raises:
        ValueError: saying why.
    """
    projector, aspect = getattr(host, "mm_projector_type", "linear"), getattr(host, "image_aspect_ratio", None)
    merge = getattr(host, "mm_patch_merge_type", "flat")
    if host.model_type not in LANGUAGE_MODELS:
        raise ValueError(f"a LLaVA on {host.model_type}: transformers has one on LLaMA and Mistral")
    if projector != "mlp2x_gelu":
        raise ValueError(f"mm_projector_type is {projector!r}: transformers' LLaVA has mlp2x_gelu")
    if aspect == "anyres" and merge != "spatial_unpad":
        raise ValueError(f"mm_patch_merge_type is {merge!r}: transformers' LLaVA-NeXT has spatial_unpad")
    if getattr(host, "mm_use_im_start_end", False):
        raise ValueError("mm_use_im_start_end surrounds images with tokens: transformers' LLaVA does not")
    tell_unknown_words(host)


def hub_config(
    host: Any,
    values: dict[str, Any],
    tower: Tower,
    rows: int,
    image_id: int,
    ids: dict[str, int],
) -> Any:
    """The config of ``LlavaForConditionalGeneration`` or ``LlavaNextForConditionalGeneration``.

    Args:
        host: LLaVA's config.
        values: of its config.json.
        tower: its vision tower.
        rows: of the embedding.
        image_id: of ``<image>``.
        ids: of the placeholders of its regions, by their names in ``HostFacts``; none for a checkpoint without.
    """
    import transformers

    text = transformers.CONFIG_MAPPING[LANGUAGE_MODELS[values["model_type"]]]
    known = {*text().to_dict(), "rope_theta", "rope_scaling"} - {"model_type", "architectures", "transformers_version"}
    language = text(**{**{key: value for key, value in values.items() if key in known}, "vocab_size": rows})
    shared = {
        "vision_config": tower.config,
        "text_config": language,
        "image_token_id": image_id,
        "vision_feature_layer": host.mm_vision_select_layer,
        "vision_feature_select_strategy": _strategy(host),
        "projector_hidden_act": "gelu",
    }
    if getattr(host, "image_aspect_ratio", None) == "anyres":
        points = [[height, width] for width, height in pinpoints_of(host)]  # transformers has the height first
        config: Any = transformers.LlavaNextConfig(**shared, image_grid_pinpoints=points)
    else:
        config = transformers.LlavaConfig(**shared)
    config.architectures = [type(config).__name__.replace("Config", "ForConditionalGeneration")]
    config.dtype = values.get("dtype", values.get("torch_dtype"))
    if ids:
        facts = HostFacts(image_mean=tuple(tower.images.image_mean), image_std=tuple(tower.images.image_std), **ids)
        setattr(config, CONFIG_KEY, values[CONFIG_KEY])
        setattr(config, HOST_KEY, facts.to_json())
    return config


def pinpoints_of(host: Any) -> list[tuple[int, int]]:
    """(width, height) of LLaVA's resolutions, which its config has as a list or as its text."""
    points = host.image_grid_pinpoints
    return [
        (int(width), int(height)) for width, height in (ast.literal_eval(points) if isinstance(points, str) else points)
    ]


def check_is_llavas(config: Any) -> None:
    """Refuse a model of transformers that LLaVA's own classes cannot hold.

    Args:
        config: of the model.

    Raises:
        ValueError: with the reason.
    """
    text, vision = config.get_text_config().model_type, getattr(config.vision_config, "model_type", None)
    if config.model_type not in ("llava", "llava_next") or text not in ARCHITECTURES:
        raise ValueError(
            f"a {config.model_type} on {text}: LLaVA's code has llava and llava_next on {' and '.join(ARCHITECTURES)}"
        )
    if vision != "clip_vision_model" or not isinstance(config.vision_feature_layer, int):
        raise ValueError(
            f"its vision tower is a {vision} read at layer {config.vision_feature_layer}: LLaVA's own code reads one "
            "layer of CLIP"
        )


def llava_values(config: Any, rows: int, tower: str, padded: bool) -> dict[str, Any]:
    """config.json of LLaVA's own code for a checkpoint that was never LLaVA's.

    Args:
        config: transformers' LlavaConfig or LlavaNextConfig.
        rows: of the embedding.
        tower: path or hub id of its vision tower.
        padded: its image processor pads images to squares.
    """
    text = config.text_config
    kind, architecture = ARCHITECTURES[text.model_type]
    values = {key: value for key, value in text.to_dict().items() if not key.startswith("_")}
    values |= {
        "model_type": kind,
        "architectures": [architecture],
        "vocab_size": rows,
        "mm_vision_tower": tower,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad" if padded else None,
        "tokenizer_model_max_length": text.max_position_embeddings,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
    }
    if config.model_type == "llava_next":
        points = [[width, height] for height, width in config.image_grid_pinpoints]
        values |= {
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": points,
        }
    return values


def _strategy(host: Any) -> str:
    return "default" if getattr(host, "mm_vision_select_feature", "patch") == "patch" else "full"
