"""One loaded model that is asked in batches: what it has seen and read of an image serves them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pvit_ext.hosts.chat import Chat
from pvit_ext.hosts.find import ModelHost, host_of
from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.hosts.shown_images import SharedImages
from pvit_ext.regions.image_source import describe
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionPrompt
from pvit_ext.tokens.query import Query


class Session:
    """A loaded model that is asked one or several times; in between, neither it nor its images may change.

    Args:
        model, tokenizer, image_processor, conv_version, system, features: as of :func:`~pvit_ext.ask`.

    Attributes:
        chat: of the model.
        shared: the images of all questions, where what towers make of them is kept.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        conv_version: str | None = None,
        system: str | None = None,
        features: ImageFeatures | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.chat = model_host(model).chat(model, tokenizer, image_processor, conv_version, system)
        self.shared = shared_images(self.chat, model, features)

    def prompts(self, queries: Sequence[Query]) -> list[RegionPrompt]:
        """A prompt for each query, all checked.

        Raises:
            RegionError: naming the query.
        """
        prompts = [self.chat.prompt(query, f"query {number}") for number, query in enumerate(queries)]
        check_encoder(self.model, prompts)
        return prompts

    def batch(self, queries: Sequence[Query], prompts: Sequence[RegionPrompt], prefix: bool = False) -> dict[str, Any]:
        """Arguments of the model's ``generate``; see :func:`one_batch`."""
        return one_batch(self.chat, queries, prompts, self.shared, prefix)


def shared_images(chat: Chat, model: Any, features: ImageFeatures | None) -> SharedImages | None:
    """The images of a call; None where nothing is to be kept, or the model's images cannot be shared.

    Args:
        chat: of the model.
        model: which answers.
        features: where it is kept.

    Raises:
        TypeError: for other objects.
    """
    if features is None:
        return None
    if not isinstance(features, ImageFeatures):
        raise TypeError(f"features is {describe(features)}; give ImageFeatures(max_bytes)")
    if not hasattr(chat, "vision_tower"):  # a registered host may not say how its tower sees an image
        return None
    tower, module = chat.vision_tower(), getattr(model, "region_module", None)
    return None if tower is None else SharedImages(features, tower, module and module.region_encoder)


def one_batch(
    chat: Chat,
    queries: Sequence[Query],
    prompts: Sequence[RegionPrompt],
    shared: SharedImages | None,
    prefix: bool = False,
) -> dict[str, Any]:
    """Arguments of the model's ``generate``, with what its towers make of shared images.

    Args:
        chat: of the model.
        queries, prompts: of the batch.
        shared: the images of the call.
        prefix: whether the language model may read the beginning that questions about the same images share once.
    """
    if shared is None:
        return chat.batch(queries, prompts)
    shown = shared.batch()
    batch = chat.batch(queries, prompts, shown)
    about_one = len(shown.shown) == len(queries) and len({*shown.shown}) == 1
    if not (prefix and about_one and hasattr(chat, "with_prefix")):
        return batch
    names = shown.shown[0]
    if len(queries) < 2 and not shared.prefix.is_of(names):
        return batch
    return chat.with_prefix(batch, lambda: chat.batch(queries[:1], prompts[:1], shared.batch()), names, shared.prefix)


def model_host(model: Any) -> ModelHost:
    """The host of a loaded model.

    Raises:
        TypeError: for another object.
    """
    try:
        return host_of(model)
    except TypeError as error:
        raise TypeError(
            f"ask(model, tokenizer, processor, queries) got a {type(model).__name__} as the model; load it with "
            "pvit_ext.load_pretrained_model, which returns (tokenizer, model, processor, context_len)"
        ) from error


def check_encoder(model: Any, prompts: Sequence[RegionPrompt]) -> None:
    """Refuse regions for a model without an encoder: the model itself would name a sample of its batch.

    Raises:
        RegionError: naming the query and what to do.
    """
    with_regions = next((prompt.name for prompt in prompts if prompt.regions), None)
    if with_regions is not None and getattr(model, "region_module", model) is None:  # a host may keep it elsewhere
        raise RegionError(
            f"{with_regions}: regions were given, but the model has no region encoder: load a checkpoint that has one, "
            "make one (pvit-ext swap CHECKPOINT --encoder NAME --out DIR), or pvit_ext.attach(model, ...) one"
        )


@contextmanager
def naming_queries(numbers: Sequence[int]) -> Iterator[None]:
    """Name the queries of a batch in its errors, whose samples the model counts from 0.

    Args:
        numbers: of the query of each sample.
    """
    try:
        yield
    except RegionError as error:
        if str(error).startswith("query "):  # the name of a region
            raise
        raise RegionError(f"in the batch {_samples(numbers)}: {error}") from error


def _samples(numbers: Sequence[int]) -> str:
    first, count = numbers[0], len(numbers)
    if list(numbers) == list(range(first, first + count)):
        return f"whose sample 0 is query {first}"
    if set(numbers) == {first}:
        return f"of query {first}"
    return f"whose samples are of queries {', '.join(map(str, numbers))}"
