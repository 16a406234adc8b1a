"""Asking questions about regions: text, images and regions in, answers out, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.prompt import IMAGE_TOKEN_INDEX, bind_regions, tokenizer_region_token
from pvit_ext.regions import Region, RegionError
from pvit_ext.views import load_image

IMAGE_PLACEHOLDER = "<image>"
_CONV_OF_MODEL_TYPE = {"llava_llama": "v1", "llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}


@dataclass
class Query:
    """One question.

    Args:
        image: path or PIL image, a list of several, or None.
        text: question with one ``<region>`` per region; ``<image>`` may say where the images go, else they come first.
        regions: in the order of their placeholders, those in ``history`` first; ``Region(..., image=k)`` for image k.
        history: earlier turns as (question, answer).
    """

    image: Any
    text: str
    regions: Sequence[Region] = ()
    history: Sequence[tuple[str, str]] = field(default_factory=list)

    def load_images(self) -> list[Image.Image]:
        """The query's images, upright RGB."""
        images = self.image if isinstance(self.image, (list, tuple)) else [self.image]
        return [load_image(image) for image in images if image is not None]


def ask(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    max_new_tokens: int = 64,
    batch_size: int = 8,
    conv_version: str | None = None,
    progress: bool = False,
    **generate_kwargs: Any,
) -> list[str]:
    """Answer every query, greedily by default; an answer is the same alone and in any batch.

    Args:
        model, tokenizer, image_processor: from :func:`~pvit_ext.load_pretrained_model`.
        queries: checked one by one before any is run.
        batch_size: queries per ``generate`` call.
        conv_version: LLaVA's conversation template; default the one the checkpoint names, else the model's usual one.
        progress: show a progress bar over the batches.
        generate_kwargs: for transformers' ``generate``.

    Raises:
        RegionError: naming the query, before anything is generated.
    """
    conv = conversation(model, conv_version)
    prompts = [_prompt(query, conv, number, model.config) for number, query in enumerate(queries)]
    starts: Any = range(0, len(queries), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, desc="asking", unit="batch")
    answers: list[str] = []
    for start in starts:
        batch = collate(model, tokenizer, image_processor, queries[start : start + batch_size], prompts[start:], start)
        with _left_padding(model.config):
            ids = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                eos_token_id=_stop_ids(tokenizer, conv),
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                **{"do_sample": False, "use_cache": True, **generate_kwargs},
            )
        answers += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    stop = conv.sep2 or conv.sep
    return [answer.removesuffix(stop).strip() for answer in answers]


def conversation(model: Any, version: str | None = None) -> Any:
    """LLaVA's conversation template for a model: asked for, named by the checkpoint, or usual for its kind."""
    from llava.conversation import conv_templates

    config = model.region_config
    version = version or (config and config.conv_version) or _CONV_OF_MODEL_TYPE[model.config.model_type]
    if version not in conv_templates:
        raise ValueError(f"unknown conversation template {version!r}; known: {', '.join(sorted(conv_templates))}")
    return conv_templates[version]


@dataclass
class _Prompt:
    text: str
    regions: list[Region]


def _prompt(query: Query, conv: Any, number: int, config: Any) -> _Prompt:
    """The whole conversation as text, with its regions merged from markup and ``query.regions``."""
    where = f"query {number}"
    images = len(query.image) if isinstance(query.image, (list, tuple)) else int(query.image is not None)
    questions = [question for question, _ in query.history] + [query.text]
    answers = [answer for _, answer in query.history] + [None]
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
    if getattr(config, "mm_use_im_start_end", False):
        text = text.replace(IMAGE_PLACEHOLDER, f"<im_start>{IMAGE_PLACEHOLDER}<im_end>")
    return _Prompt(*bind_regions(text, query.regions, where))


def collate(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    prompts: Sequence[_Prompt],
    first: int = 0,
) -> dict[str, Any]:
    """Keyword arguments for ``model.generate``: left-padded ids, pixels, sizes, regions and the encoder's extra input."""
    from llava.mm_utils import process_images

    device = model.lm_head.weight.device
    pairs = list(zip(queries, prompts, strict=False))
    ids = [tokenizer_region_token(prompt.text, tokenizer, IMAGE_TOKEN_INDEX, "pt") for _, prompt in pairs]
    images: list[Image.Image] = []
    extra: list[dict[str, Tensor] | None] = []
    encoder = getattr(model.get_model(), "region_encoder", None)
    for number, (query, prompt) in enumerate(pairs, start=first):
        own = query.load_images() or [Image.new("RGB", (16, 16))]  # LLaVA's splice takes an image from every sample
        images += own
        extra += region_extra(encoder, own, prompt.regions, f"query {number}")
    pixels: Any = process_images(images, image_processor, model.config)
    dtype = model.lm_head.weight.dtype
    pixels = [one.to(device, dtype) for one in pixels] if isinstance(pixels, list) else pixels.to(device, dtype)
    longest = max(len(one) for one in ids)
    return {
        "inputs": torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in ids]).to(device),
        "attention_mask": torch.stack([torch.arange(longest) >= longest - len(one) for one in ids]).to(device),
        "images": pixels if any(query.image is not None for query, _ in pairs) else None,
        "image_sizes": [image.size for image in images],
        "regions": [prompt.regions for _, prompt in pairs],
        "region_extra": [part and {key: value.to(device) for key, value in part.items()} for part in extra],
    }


def region_extra(encoder: Any, images: Sequence[Image.Image], regions: Sequence[Region], where: str) -> list[Any]:
    """Per image of one sample the encoder's ``preprocess`` output, None for an image without a region."""
    extra: list[Any] = []
    for number, image in enumerate(images):
        here = [region.resolve(image.size, where) for region in regions if region.image == number]
        extra.append(encoder.preprocess(image, here) if here and encoder is not None else None)
    return extra


def _stop_ids(tokenizer: Any, conv: Any) -> list[int]:
    """End of sequence, and the template's separator where that is one token (MPT's <|im_end|>)."""
    ids = [tokenizer.eos_token_id]
    separator = tokenizer.convert_tokens_to_ids(conv.sep2 or conv.sep)
    if separator not in (None, tokenizer.unk_token_id, *ids):
        ids.append(separator)
    return ids


@contextmanager
def _left_padding(config: Any) -> Iterator[None]:
    """Generation continues at the right end, so LLaVA has to pad on the left; training leaves "right" in the config."""
    before = getattr(config, "tokenizer_padding_side", "right")
    config.tokenizer_padding_side = "left"
    try:
        yield
    finally:
        config.tokenizer_padding_side = before
