"""Asking questions about regions: text, images and regions in, answers out, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation, stops
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.query import Query

__all__ = ["Query", "ask"]


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
    stop_ids, criteria = stops(tokenizer, stop)
    prompts = [build_prompt(query, conv, f"query {number}", model) for number, query in enumerate(queries)]
    starts: Any = range(0, len(queries), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, desc="asking", unit="batch")
    answers: list[str] = []
    for start in starts:
        batch = collate(model, tokenizer, image_processor, queries[start : start + batch_size], prompts[start:], start)
        with _naming_queries(start):
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


@contextmanager
def _naming_queries(first: int) -> Iterator[None]:
    """The model counts the samples of a batch from 0."""
    try:
        yield
    except RegionError as error:
        if str(error).startswith("query "):  # the name of a region
            raise
        raise RegionError(f"in the batch whose sample 0 is query {first}: {error}") from error
