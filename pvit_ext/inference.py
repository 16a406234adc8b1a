"""Asking questions about regions: text, images and regions in, answers out, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria

from pvit_ext.anyres import ImageLayout
from pvit_ext.inputs import paint_regions, region_extra, write_regions
from pvit_ext.prompt import IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX, bind_regions, tokenizer_region_token
from pvit_ext.regions import Region, RegionError, Size
from pvit_ext.views import image_size, load_image, reading

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
        return [load_image(image) for image in self._sources()]

    def image_sizes(self) -> list[Size]:
        """(width, height) of the upright images, read from their headers."""
        return [image_size(image) for image in self._sources()]

    def _sources(self) -> list[Any]:
        images = self.image if isinstance(self.image, (list, tuple)) else [self.image]
        return [image for image in images if image is not None]


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
        RegionError: naming the query; what prompt, regions and image size tell is checked before anything is generated.
    """
    conv = conversation(model, conv_version)
    stop = conv.sep2 or conv.sep
    stop_ids, criteria = _stops(tokenizer, stop)
    prompts = [_prompt(query, conv, f"query {number}", model) for number, query in enumerate(queries)]
    starts: Any = range(0, len(queries), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, desc="asking", unit="batch")
    answers: list[str] = []
    for start in starts:
        batch = collate(model, tokenizer, image_processor, queries[start : start + batch_size], prompts[start:], start)
        with _left_padding(model.config), _naming_queries(start):
            ids = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_ids,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0],
                **{"do_sample": False, "use_cache": True, "stopping_criteria": criteria, **generate_kwargs},
            )
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        answers += [(text.split(stop)[0] if stop else text).strip() for text in texts]
    return answers


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
    """A prompt, its regions, and those of them that are left for the model: none of them where the text names them."""

    text: str
    regions: list[Region]
    left: list[Region] = field(default_factory=list)


def _prompt(query: Query, conv: Any, where: str, model: Any) -> _Prompt:
    """The whole conversation as text, with its regions merged from markup and ``query.regions``, all checked."""
    with reading(where):
        sizes = query.image_sizes()
    images = len(sizes)
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
    if getattr(model.config, "mm_use_im_start_end", False):
        text = text.replace(IMAGE_PLACEHOLDER, f"<im_start>{IMAGE_PLACEHOLDER}<im_end>")
    prompt = _Prompt(*bind_regions(text, query.regions, where))
    for number, region in enumerate(prompt.regions):
        if not 0 <= region.image < images:
            raise RegionError(
                f"{where}, region {number}: lies on image {region.image}, the query has {images} image(s)"
            )
        region.resolve(sizes[region.image], f"{where}, region {number}")
    (prompt.text,), prompt.left = write_regions(_encoder(model), [prompt.text], prompt.regions, sizes, where)
    return prompt


def _encoder(model: Any) -> Any:
    return getattr(model.get_model(), "region_encoder", None)


def collate(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    prompts: Sequence[_Prompt],
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
        images += paint_regions(encoder, own, prompt.regions, f"query {number}")
        extra += region_extra(encoder, own, prompt.regions, f"query {number}")
    pixels: Any = process_images(images, image_processor, model.config)
    dtype = model.lm_head.weight.dtype
    pixels = [one.to(device, dtype) for one in pixels] if isinstance(pixels, list) else pixels.to(device, dtype)
    longest = max(len(one) for one in ids)
    return {
        "inputs": torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in ids]).to(device),
        "attention_mask": torch.stack([torch.arange(longest) >= longest - len(one) for one in ids]).to(device),
        "images": pixels if any(IMAGE_TOKEN_INDEX in one for one in ids) else None,
        "image_sizes": [image.size for image in images],
        "regions": [prompt.left for _, prompt in pairs],
        "region_extra": [part and {key: value.to(device) for key, value in part.items()} for part in extra],
    }


def _check_length(model: Any, ids: Tensor, image_rows: list[int], where: str) -> None:
    """LLaVA cuts the end of a long prompt, which is the question, without a word."""
    limit = getattr(model.config, "tokenizer_model_max_length", None)
    rows = len(ids) + sum(image_rows) - len(image_rows)
    if regions := int((ids == REGION_TOKEN_INDEX).sum()):
        rows += regions * (model.region_config.slots_per_region - 1) if model.region_config else 0
    if limit is not None and rows > limit:
        raise RegionError(
            f"{where}: its prompt takes {rows} rows, the model's maximum (tokenizer_model_max_length) is {limit}"
        )


def _stops(tokenizer: Any, stop: str | None) -> tuple[list[int], list[Any]]:
    """Ids that end an answer: end of sequence, and the template's separator where that is an added token (<|im_end|>).

    Another separator (``###``) ends it by a stopping criterion; LLaVA's own looks for it in the wrong place.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not stop or stop == tokenizer.eos_token:
        return ids, []
    if stop in tokenizer.get_added_vocab():
        return [*ids, tokenizer.convert_tokens_to_ids(stop)], []
    return ids, [_StopString(tokenizer, stop, ids)]


class _StopString(StoppingCriteria):
    """Ends a batch when each row has spelled the stop string or ended by itself; answers are cut there afterwards.

    One value for the batch: transformers 4.36 and 4.37 cannot take one per row, later ones spread it over the rows.
    """

    def __init__(self, tokenizer: Any, stop: str, ends: list[int]) -> None:
        self.tokenizer, self.stop, self.ends = tokenizer, stop, set(ends)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """One bool; ``generate`` shows new tokens only."""
        rows = input_ids.tolist()
        texts = self.tokenizer.batch_decode(input_ids)
        done = (self.stop in text or not self.ends.isdisjoint(row) for row, text in zip(rows, texts, strict=True))
        return torch.tensor(all(done), device=input_ids.device)


@contextmanager
def _naming_queries(first: int) -> Iterator[None]:
    """The model counts the samples of a batch from 0."""
    try:
        yield
    except RegionError as error:
        raise RegionError(f"in the batch whose sample 0 is query {first}: {error}") from error


@contextmanager
def _left_padding(config: Any) -> Iterator[None]:
    """Generation continues at the right end, so LLaVA has to pad on the left; training leaves "right" in the config."""
    before = getattr(config, "tokenizer_padding_side", None)
    config.tokenizer_padding_side = "left"
    try:
        yield
    finally:
        if before is None:
            del config.tokenizer_padding_side
        else:
            config.tokenizer_padding_side = before
