"""Tiny models of the families that ``zoo.py`` has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from tests.hosts.transformers import zoo
from tests.hosts.transformers.zoo import CHAT, Pair, image_processor, text_config, tokenizer

_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def vipllava(size: int = 28, patch: int = 7) -> Pair:
    """ViP-LLaVA, whose language model reads several layers of the tower."""
    _, processor = zoo.llava(size, patch)
    config = transformers.VipLlavaConfig(
        vision_config=zoo.clip(size, patch),
        text_config=transformers.LlamaConfig(**text_config()),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-2, -3, 1],
    )
    torch.manual_seed(0)
    return transformers.VipLlavaForConditionalGeneration(config).eval(), processor


def gemma3(size: int = 28, patch: int = 7) -> Pair:
    """Gemma 3: a squeezed square, pooled before the language model sees it."""
    torch.manual_seed(0)
    words = _named(boi_token="<start_of_image>", image_token="<image_soft_token>", eoi_token="<end_of_image>")
    images = image_processor("gemma3", "Gemma3ImageProcessor", size={"height": size, "width": size})
    template = CHAT.replace("IMAGE", "<start_of_image> ")
    processor = transformers.Gemma3Processor(images, words, chat_template=template, image_seq_length=4)
    config = transformers.Gemma3Config(
        vision_config=dict(_TOWER, image_size=size, patch_size=patch),
        text_config=transformers.Gemma3TextConfig(**text_config(head_dim=16)),
        image_token_index=words.image_token_id,
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config).eval(), processor


def paligemma(size: int = 28, patch: int = 7) -> Pair:
    """PaliGemma: a squeezed square; its text has the images first."""
    torch.manual_seed(0)
    words = _named(image_token="<image>")
    images = image_processor("siglip", "SiglipImageProcessor", size={"height": size, "width": size})
    images.image_seq_length = (size // patch) ** 2
    processor = transformers.PaliGemmaProcessor(images, words, chat_template=CHAT.replace("IMAGE", "<image>"))
    config = transformers.PaliGemmaConfig(
        vision_config=dict(_TOWER, image_size=size, patch_size=patch),
        text_config=transformers.GemmaConfig(**text_config(vocab_size=2048, head_dim=16)),
        image_token_index=words.image_token_id,
        projection_dim=64,
    )
    return transformers.PaliGemmaForConditionalGeneration(config).eval(), processor


def mistral3(patch: int = 7) -> Pair:
    """Mistral 3: Pixtral's tower, its cells merged two by two."""
    _, processor = zoo.pixtral(patch)
    processor.spatial_merge_size = 2
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**_TOWER, head_dim=8, image_size=112, patch_size=patch),
        text_config=transformers.MistralConfig(**text_config()),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        spatial_merge_size=2,
    )
    torch.manual_seed(0)
    return transformers.Mistral3ForConditionalGeneration(config).eval(), processor


def internvl(size: int = 28, patch: int = 7) -> Pair:
    """InternVL: tiles, then a thumbnail."""
    torch.manual_seed(0)
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = _named(**marks, video_token="<video>")
    square = {"height": size, "width": size}
    images = image_processor("got_ocr2", "GotOcr2ImageProcessor", size=square)
    processor = zoo._processor("internvl", "InternVLProcessor")(
        images,
        words,
        video_processor=zoo._no_videos(),
        image_seq_length=(size // patch // 2) ** 2,
        chat_template=CHAT.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**_TOWER, image_size=size, patch_size=patch),
        text_config=transformers.Qwen2Config(**text_config()),
        image_token_id=words.context_image_token_id,
    )
    return transformers.InternVLForConditionalGeneration(config).eval(), processor


def glm4v(patch: int = 14) -> Pair:
    """GLM-4V, whose tower's last layer is merged already."""
    torch.manual_seed(0)
    marks = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>"]
    marks += ["<|begin_of_video|>", "<|end_of_video|>"]
    words = tokenizer(marks)
    limits = {"shortest_edge": 2 * (4 * patch) ** 2, "longest_edge": 2 * (2 * patch) ** 2 * 120}
    images = image_processor("glm4v", "Glm4vImageProcessor", patch_size=patch, size=limits)
    processor = zoo._processor("glm4v", "Glm4vProcessor")(
        images,
        words,
        video_processor=zoo._no_videos(merge_size=2, temporal_patch_size=2),
        chat_template=CHAT.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>"),
    )
    keys = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {f"{key}_token_id": words.convert_tokens_to_ids(mark) for key, mark in zip(keys, marks, strict=True)}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 64}
    config = transformers.Glm4vConfig(
        vision_config=dict(vision, patch_size=patch, spatial_merge_size=2, temporal_patch_size=2, image_size=56),
        text_config=text_config(rope_parameters=rope),
        **ids,
    )
    return transformers.Glm4vForConditionalGeneration(config).eval(), processor


OTHERS: dict[str, Callable[[], Pair]] = {
    "vipllava": vipllava,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "mistral3": mistral3,
    "internvl": internvl,
    "glm4v": glm4v,
}


def _named(**marks: str) -> Any:
    """A tokenizer with special tokens that are attributes of it too, such as ``image_token`` and ``image_token_id``."""
    words = tokenizer(list(marks.values()))
    words._set_model_specific_special_tokens(special_tokens=marks)
    return words
