"""Queries as a batch for LLaVA's ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.prompt import IMAGE_PLACEHOLDER, IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX, bind_regions
from pvit_ext.regions.image import reading
from pvit_ext.regions.region import RegionError, ResolvedRegion
from pvit_ext.tokens.processor import paint_regions, region_extra, write_regions
from pvit_ext.tokens.query import Query


@dataclass
class Prompt:
    """A prompt, its regions, and those of them that the model gets: none where the text names them."""

    text: str
    regions: list[ResolvedRegion]
    for_model: list[ResolvedRegion]


def build_prompt(query: Query, conv: Any, where: str, model: Any) -> Prompt:
    """The whole conversation as text, with its regions merged from markup and ``query.regions``, all checked."""
    questions, answers = query.turns(where)
    with reading(where):
        sizes = query.image_sizes()
    images = len(sizes)
    given = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
    if given not in (0, images):
        raise RegionError(f"{where}: {given} <image> in the text, {images} image(s) given")
    if not given:
        questions[0] = (IMAGE_PLACEHOLDER + "\n") * images + questions[0]
    conv = conv.copy()
    for question, answer in zip(questions, answers, strict=True):
        conv.append_message(conv.roles[0], question)
        conv.append_message(conv.roles[1], answer)
    text = conv.get_prompt()
    if getattr(model.config, "mm_use_im_start_end", False):
        text = text.replace(IMAGE_PLACEHOLDER, f"<im_start>{IMAGE_PLACEHOLDER}<im_end>")
    text, given_regions = bind_regions(text, query.all_regions(where), where)
    regions: list[ResolvedRegion] = []
    for number, region in enumerate(given_regions):
        if not 0 <= region.image < images:
            raise RegionError(
                f"{where}, region {number}: lies on image {region.image}, the query has {images} image(s)"
            )
        regions.append(region.resolve(sizes[region.image], f"{where}, region {number}"))
    (text,), for_model = write_regions(_encoder(model), [text], regions, sizes, where)
    return Prompt(text, regions, for_model)


def _encoder(model: Any) -> Any:
    return getattr(model.get_model(), "region_encoder", None)


def collate(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    prompts: Sequence[Prompt],
    first: int = 0,
) -> dict[str, Any]:
    """Arguments for ``model.generate``: left-padded ids, pixels, sizes, regions and the encoder's extra input."""
    from llava.mm_utils import process_images

    device = model.lm_head.weight.device
    pairs = list(zip(queries, prompts, strict=False))
    ids = [tokenizer_region_token(prompt.text, tokenizer, IMAGE_TOKEN_INDEX, "pt") for _, prompt in pairs]
    images: list[Image.Image] = []
    extra: list[dict[str, Tensor] | None] = []
    encoder, layout = _encoder(model), ImageLayout.of(model)
    for number, (query, prompt) in enumerate(pairs, start=first):
        with reading(f"query {number}"):
            loaded = query.load_images()
        _check_length(model, ids[number - first], [layout.rows(image.size) for image in loaded], f"query {number}")
        own = loaded or [Image.new("RGB", (16, 16))]  # LLaVA's splice takes an image from every sample
        images += paint_regions(encoder, own, prompt.regions)
        extra += region_extra(encoder, own, prompt.regions)
    pixels: Any = process_images(images, image_processor, model.config)
    dtype = model.lm_head.weight.dtype
    pixels = [one.to(device, dtype) for one in pixels] if isinstance(pixels, list) else pixels.to(device, dtype)
    longest = max(len(one) for one in ids)
    return {
        "inputs": torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in ids]).to(device),
        "attention_mask": torch.stack([torch.arange(longest) >= longest - len(one) for one in ids]).to(device),
        "images": pixels if any(IMAGE_TOKEN_INDEX in one for one in ids) else None,
        "image_sizes": [image.size for image in images],
        "regions": [prompt.for_model for _, prompt in pairs],
        "region_extra": [part and {key: value.to(device) for key, value in part.items()} for part in extra],
    }


def _check_length(model: Any, ids: Tensor, image_rows: list[int], where: str) -> None:
    """LLaVA cuts the end of a long prompt, which is the question, without a word."""
    limit = getattr(model.config, "tokenizer_model_max_length", None)
    rows = len(ids) + sum(image_rows) - len(image_rows)
    if regions := int((ids == REGION_TOKEN_INDEX).sum()):
        rows += regions * (model.region_module.positions_per_region - 1) if model.region_module else 0
    if limit is not None and rows > limit:
        raise RegionError(
            f"{where}: its prompt takes {rows} rows, the model's maximum (tokenizer_model_max_length) is {limit}"
        )
