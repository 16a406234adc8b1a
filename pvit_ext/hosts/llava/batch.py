"""Queries as a batch for LLaVA's ``generate``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.hosts.llava.region_token import HintTokenizer, tokenizer_region_token
from pvit_ext.hosts.llava.vision_pass import PIXELS
from pvit_ext.hosts.shown_images import ShownImages, prepare
from pvit_ext.hosts.stored_vision import TOWER_OUTPUT
from pvit_ext.prompt import IMAGE_PLACEHOLDER, IMAGE_TOKEN_INDEX
from pvit_ext.regions.image import reading
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor, RegionPrompt, RegionSample
from pvit_ext.tokens.query import Query
from pvit_ext.tokens.routing_inputs import routing_inputs
from pvit_ext.tokens.turns import read_turns

_TAGGED = f"<Image>{IMAGE_PLACEHOLDER}</Image>"


def build_prompt(query: Query, conv: Any, name: str, model: Any, special: SpecialTokens | None = None) -> RegionPrompt:
    """The conversation as one text, with its regions from markup and ``query.regions``, all checked.

    As in training, one image that the text places stands before the text of its turn, and several where they stand.
    As in LLaVA's own scripts, an image that the text does not place stands before it, and the text keeps its blanks.
    The templates with ``mmtag`` in their version write a single image in tags, by either way.

    Args:
        query: the question.
        conv: LLaVA's conversation template.
        name: of the query, for messages.
        model: LLaVA model.
        special: tokens of its tokenizer, see :func:`~pvit_ext.tokens.turns.read_turns`.

    Raises:
        RegionError: naming the query.
    """
    with reading(name):
        sizes = query.image_sizes()
    processor = RegionProcessor.of(model.region_module)
    questions, answers = read_turns(query, len(sizes), processor, special or SpecialTokens(), name, "\n")
    if len(sizes) == 1:
        if any(IMAGE_PLACEHOLDER in question for question in query.turns(name)[0]):
            questions = [_image_first(question) for question in questions]
        if "mmtag" in conv.version:  # as LLaVA's preprocess_multimodal does in training, wherever the image stood
            questions = [question.replace(IMAGE_PLACEHOLDER, _TAGGED) for question in questions]
    conv = conv.copy()
    for question, answer in zip(questions, answers, strict=True):
        conv.append_message(conv.roles[0], question)
        conv.append_message(conv.roles[1], answer)
    text = conv.get_prompt()
    if getattr(model.config, "mm_use_im_start_end", False):
        text = text.replace(IMAGE_PLACEHOLDER, f"<im_start>{IMAGE_PLACEHOLDER}<im_end>")
    return processor.prompt([text], query.all_regions(name), sizes, name, query.task)


def _image_first(question: str) -> str:
    """A question with the image before its text, as LLaVA's ``preprocess_multimodal`` shows it in training."""
    if IMAGE_PLACEHOLDER not in question:
        return question
    return f"{IMAGE_PLACEHOLDER}\n{question.replace(IMAGE_PLACEHOLDER, '').strip()}".strip()


def collate(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    prompts: Sequence[RegionPrompt],
    shown: ShownImages | None = None,
) -> dict[str, Any]:
    """Arguments for ``model.generate``: left-padded ids, pixels, sizes, regions and the encoder's extra input.

    Args:
        model, tokenizer, image_processor: of LLaVA.
        queries: of the batch.
        prompts: one for each query, by :func:`build_prompt`.
        shown: what the towers make of the images, if that is shared.

    Raises:
        RegionError: naming the query whose image cannot be read, or whose prompt is too long.
    """
    processor, layout = RegionProcessor.of(model.region_module), ImageLayout.of(model)
    processor = processor if shown is None else shown.processor(processor)
    if processor.tag_style == HINT_STYLE:
        tokenizer = HintTokenizer(tokenizer)
    samples: list[RegionSample] = []
    ids: list[Tensor] = []
    for query, prompt in zip(queries, prompts, strict=True):
        blank = [Image.new("RGB", (16, 16))]  # LLaVA's splice takes an image from every sample
        samples.append(prepare(processor, query, prompt, shown, blank))
        ids.append(tokenizer_region_token(prompt.texts[0], tokenizer, IMAGE_TOKEN_INDEX, "pt"))
        taken = processor.count_positions(ids[-1], [layout.positions(image.size) for image in samples[-1].images])
        _check_length(model, taken, prompt.name)
    device, has_images = model.lm_head.weight.device, any(IMAGE_TOKEN_INDEX in one for one in ids)
    longest = max(map(len, ids))
    extra = [part for sample in samples for part in sample.extra]
    asked = [query.turns(prompt.name)[0] for query, prompt in zip(queries, prompts, strict=True)]
    routing = routing_inputs(processor.tasks, [prompt.task for prompt in prompts], asked, tokenizer)
    return {
        "inputs": torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in ids]).to(device),
        "attention_mask": torch.stack([torch.arange(longest) >= longest - len(one) for one in ids]).to(device),
        "images": _pixels(model, image_processor, samples, shown) if has_images else None,
        **({} if shown is None or not has_images else {TOWER_OUTPUT: shown.output(samples, device)}),
        "image_sizes": [size for sample in samples for size in sample.sizes],
        "regions": [sample.regions for sample in samples],
        "region_extra": [part and {key: value.to(device) for key, value in part.items()} for part in extra],
        **{key: value.to(device) for key, value in routing.items()},
    }


def count_positions(model: Any, batch: dict[str, Any]) -> list[int]:
    """Positions that each prompt takes once its images and regions are in it.

    Args:
        model: LLaVA model.
        batch: by :func:`collate`.
    """
    processor, layout = RegionProcessor.of(model.region_module), ImageLayout.of(model)
    sizes, counts = iter(batch["image_sizes"]), []
    for ids, mask in zip(batch["inputs"].cpu(), batch["attention_mask"].cpu(), strict=True):
        images = int((ids == IMAGE_TOKEN_INDEX).sum())
        shown = list(itertools.islice(sizes, max(images, 1)))  # a prompt without images came with a blank one
        counts.append(processor.count_positions(ids[mask], [layout.positions(size) for size in shown[:images]]))
    return counts


def _pixels(model: Any, image_processor: Any, samples: Sequence[RegionSample], shown: ShownImages | None) -> Any:
    from llava.mm_utils import process_images

    images = [image for sample in samples for image in sample.images]
    if shown is None:
        pixels: Any = process_images(images, image_processor, model.config)
    else:
        pixels = [shown.stored.prepared(image)[PIXELS] for image in images]
        pixels = torch.stack(pixels) if len({one.shape for one in pixels}) == 1 else pixels  # as process_images does
    weight = model.lm_head.weight
    if isinstance(pixels, list):
        return [one.to(weight.device, weight.dtype) for one in pixels]
    return pixels.to(weight.device, weight.dtype)


def _check_length(model: Any, positions: int, name: str) -> None:
    """LLaVA cuts the end of a long prompt, which is the question, without a word."""
    limit = getattr(model.config, "tokenizer_model_max_length", None)
    if limit is not None and positions > limit:
        raise RegionError(
            f"{name}: its prompt takes {positions} positions, the model's maximum (tokenizer_model_max_length) is "
            f"{limit}"
        )
