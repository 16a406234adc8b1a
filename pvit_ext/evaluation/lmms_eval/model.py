"""A checkpoint of either host, with or without regions, as a model of lmms-eval.

``lmms-eval --model pvit_ext --model_args pretrained=runs/stage2 --tasks ...``. A task gives images, and after them
regions, one for each ``<region>`` of its text; PVIT's inline markup is read too. Our own tasks also give tags and the
task by which adapters are chosen; others give none, and a model that reads tags is asked without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm
from transformers import GenerationConfig

from pvit_ext.evaluation.answering import query_for
from pvit_ext.evaluation.arms import WORDS, Arm, check_arm
from pvit_ext.evaluation.identity import stored_region_config
from pvit_ext.evaluation.lmms_eval.docs import Meant
from pvit_ext.hosts.loading import load_pretrained_model
from pvit_ext.inference import ask
from pvit_ext.inference.ranks import Ranks
from pvit_ext.prompt import IMAGE_PLACEHOLDER, bind_regions
from pvit_ext.regions.region import Region
from pvit_ext.tokens.query import Query

MAX_NEW_TOKENS = 64
"""Where the task names no limit."""
_LAUNCHER = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
"""Environment variables of a process, and what they are without a launcher."""
_READ_HERE = ("until", "max_new_tokens")
_OF_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_WITHOUT_USE = ("image_aspect_ratio",)
"""Options of other models that tasks give to all: a checkpoint says itself how it sees an image."""
_OF_ASK = (
    "eos_token_id",
    "pad_token_id",
    "max_length",
    "min_length",
    "num_return_sequences",
    "return_dict_in_generate",
)
"""What :func:`~pvit_ext.ask` sets, or has no use for here; and all that begins with ``output_``."""
logger = logging.getLogger(__name__)


class PvitExt(lmms):
    """See the module.

    Args:
        pretrained, base, device, dtype: see :func:`~pvit_ext.load_pretrained_model`.
        batch_size: questions per ``generate``.
        arm: how regions are shown, as of ``pvit-ext eval``; default that of the checkpoint, ``image`` for one without
            regions.
        region_words: for a region in the arm ``image``.
        conv_version, system: see :func:`~pvit_ext.ask`.

    Raises:
        ValueError: for an arm that the checkpoint cannot take, or a batch size that is no number.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        base: str | None = None,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str | None = None,
        arm: str | None = None,
        region_words: str = WORDS,
        conv_version: str | None = None,
        system: str | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise ValueError(f"--batch_size {batch_size}: a number from 1 on; there is no auto")
        self.batch_size = int(batch_size)
        self.conv_version, self.system = conv_version, system
        config = stored_region_config(pretrained, base)
        name = check_arm(arm, config, pretrained)[0] if config is not None or arm is not None else None
        self.arm = None if name is None else Arm(name, config, region_words)
        self.pretrained = pretrained
        rank, world, local = (int(os.environ.get(name, number)) for name, number in _LAUNCHER)
        device = Ranks(rank, world, local).device(device)
        self.tokenizer, self.model, self.processor, _ = load_pretrained_model(
            pretrained, base=base, device=device, dtype=dtype
        )
        if self.arm is not None:
            self.arm.prepare(self.model)

    @property
    def rank(self) -> int:
        """Of this process, as lmms-eval sets it."""
        return int(self._rank)

    @property
    def world_size(self) -> int:
        """How many there are."""
        return int(self._world_size)

    @property
    def device(self) -> Any:
        """Of the model."""
        return self.model.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request, in order.

        Raises:
            ValueError: for visuals that are no images or regions.
            RegionError: naming the document whose regions do not fit.
        """
        answers: list[str] = []
        with tqdm(total=len(requests), desc="asking", unit="sample", disable=self.rank > 0) as bar:
            for start in range(0, len(requests), self.batch_size):
                part = requests[start : start + self.batch_size]
                answers += self._answers(part)
                bar.update(len(part))
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not to be had."""
        raise NotImplementedError("pvit_ext answers single questions: leave out tasks of several rounds")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not to be had."""
        raise NotImplementedError(
            "pvit_ext generates answers: leave out tasks that ask for the likelihood of given ones"
        )

    def _answers(self, requests: Sequence[Instance]) -> list[str]:
        """Those with the same options are one batch."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(index)
        found: dict[int, str] = {}
        for indices in groups.values():
            options = dict(requests[indices[0]].args[1])
            queries = [self._query(requests[index]) for index in indices]
            texts = ask(
                self.model, self.tokenizer, self.processor, queries, options.get("max_new_tokens", MAX_NEW_TOKENS),
                len(queries), self.conv_version, self.system, **_generate_options(options),
            )  # fmt: skip
            found |= {index: _until(text, options.get("until")) for index, text in zip(indices, texts, strict=True)}
        return [found[index] for index in range(len(requests))]

    def _query(self, request: Instance) -> Query:
        text, _, doc_to_visual, doc_id, task, split = request.args
        name = f"{task} {split} {doc_id}"
        images, regions, meant = _visuals(doc_to_visual, self.task_dict[task][split][doc_id], name)
        if text.count(IMAGE_PLACEHOLDER) != len(images):
            text = text.replace(IMAGE_PLACEHOLDER, "").strip()
        text, regions = bind_regions(text, regions, name)
        query = Query(images, text, regions, task=meant.task, tags=meant.tags, literal=not regions)
        if regions:
            if self.arm is None:
                told = "--model_args arm=image, text or marks"
                raise ValueError(f"{self.pretrained} has no regions, and {name} has: {told}")
            query = self.arm.show(query, name).query
        return query_for(self.model, query, meant.task_if_known)


def _visuals(doc_to_visual: Callable[[Any], Any], doc: Any, name: str) -> tuple[list[Any], list[Region], Meant]:
    from PIL import Image

    visuals = doc_to_visual(doc) or []
    regions = [one for one in visuals if isinstance(one, Region)]
    images = [one for one in visuals if isinstance(one, Image.Image)]
    meant = [one for one in visuals if isinstance(one, Meant)]
    if len(images) + len(regions) + len(meant) != len(visuals):
        kinds = ", ".join(sorted({type(one).__name__ for one in visuals}))
        raise ValueError(f"{name}: pvit_ext is shown images and regions, got {kinds}: leave the task out")
    return images, regions, meant[0] if meant else Meant()


def _generate_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of transformers' ``generate``; without a temperature there is no sampling. What cannot be taken is told."""
    given = {name: one for name, one in options.items() if one is not None and name not in (*_READ_HERE, *_WITHOUT_USE)}
    known = GenerationConfig()
    of_ask = {name for name in given if name in _OF_ASK or name.startswith("output_")}
    if dropped := tuple(name for name in given if name in of_ask or not hasattr(known, name)):
        _tell_dropped(dropped)
        given = {name: value for name, value in given.items() if name not in dropped}
    sampled = bool(given.get("do_sample", given.get("temperature", 0))) and given.get("temperature", 1) > 0
    if not sampled:
        return {name: value for name, value in given.items() if name not in _OF_SAMPLING}
    return {**given, "do_sample": True}


@cache
def _tell_dropped(names: tuple[str, ...]) -> None:
    """Once, not for each batch."""
    logger.warning("without effect, because pvit_ext's asking does not take it: %s", ", ".join(names))


def _until(text: str, ends: Any) -> str:
    """The text before the first of the ends."""
    for end in [ends] if isinstance(ends, str) else ends or []:
        text = text.split(end)[0] if end else text
    return text
