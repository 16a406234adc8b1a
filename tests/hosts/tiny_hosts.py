"""Tiny models of both hosts behind one protocol, for the tests that hold on either: see the fixture ``host``.

Under a transformers without models that take regions, as on LLaVA's pins, the LLaVA half runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.hosts.find import Loaded, host_of
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.transformers.entry import OLDEST

HAS_TRANSFORMERS_HOST = Version(transformers.__version__).release >= Version(OLDEST).release
OSPREY = RegionConfig("osprey", encoder_options={"layers": [-2], "position_grid": 8}, delimiters=True)
NEVER_WRITTEN = range(3, 8)
"""Ids of the special tokens of both hosts' tiny tokenizers."""


class Parts(NamedTuple):
    """A loaded model in the order of ``ask``."""

    model: Any
    tokenizer: Any
    processor: Any


class TinyHost(Protocol):
    """A kind of model of one host, with the same weights at each call.

    Attributes:
        prefix: of region tensors in the model's state dict.
        pads_right: its forward pads embeddings on the right, on whichever side the ids are padded.
    """

    prefix: str
    pads_right: bool

    def folder(self) -> Path:
        """A stock checkpoint with all its files."""

    def stock(self, folder: Path | None = None) -> Any:
        """The model in the class of its own package, read from its own folder or another."""

    def stock_parts(self) -> Parts:
        """A model without regions, as ``load_pretrained_model`` returns it."""

    def attached(self, config: RegionConfig) -> Parts:
        """The model with a region encoder."""

    def talking(self, config: RegionConfig) -> Parts:
        """The same, with weights that answer each prompt differently, in words."""

    def language_model(self, model: Any) -> nn.Module:
        """The module that gets ``inputs_embeds``."""

    def generate(self, model: Any, batch: dict[str, Any], **options: Any) -> Tensor:
        """The new ids (B, L) of a batch."""


class TinyLlava:
    """LLaVA's own classes, on LLaMA or another language model."""

    prefix = "model."
    pads_right = True

    def __init__(self, family: str, tmp: pytest.TempPathFactory) -> None:
        self.family, self.tmp, self._folder = family, tmp, Path()

    def folder(self) -> Path:
        if self._folder == Path():
            from tests.tiny import build_llava

            self._folder = build_llava(self.tmp.mktemp("llava") / self.family, family=self.family)
        return self._folder

    def stock(self, folder: Path | None = None) -> Any:
        from llava.model.language_model import llava_llama, llava_mistral

        found = {"llama": llava_llama.LlavaLlamaForCausalLM, "mistral": llava_mistral.LlavaMistralForCausalLM}
        model = found[self.family].from_pretrained(str(folder or self.folder()), torch_dtype=torch.float32)
        model.get_vision_tower().load_model()
        return model.eval()

    def stock_parts(self) -> Parts:
        return load(self.folder())

    def attached(self, config: RegionConfig) -> Parts:
        torch.manual_seed(1)
        return load(self.folder(), region_config=config)

    def talking(self, config: RegionConfig) -> Parts:
        parts = self.attached(config)
        inner = parts.model.get_model()
        for module in (inner.layers, inner.region_projector, inner.mm_projector):
            for parameter in module.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.3)
        parts.model.lm_head.weight.data[:259] = 0  # bytes, which decode to nothing readable
        return parts

    def language_model(self, model: Any) -> nn.Module:
        found: nn.Module = model.get_model()
        return found

    def generate(self, model: Any, batch: dict[str, Any], **options: Any) -> Tensor:
        if not hasattr(model, "region_config") and compat.cache_name(LlamaForCausalLM.forward) == "cache":
            pytest.skip("stock LLaVA's forward lacks transformers 5.24's cache")
        rest = {key: value for key, value in batch.items() if key != "input_ids"}
        ids: Tensor = model.generate(batch["input_ids"], **rest, pad_token_id=0, **options)
        return ids[:, int(Version(transformers.__version__) < Version("4.38")) :]  # BOS comes before them


class TinyTransformers:
    """A family of transformers' own."""

    prefix = ""
    pads_right = False

    def __init__(self, family: str, tmp: pytest.TempPathFactory) -> None:
        from tests.hosts.transformers.inputs import ALL

        self.make, self.tmp, self.family, self._folder = ALL[family], tmp, family, Path()

    def folder(self) -> Path:
        if self._folder == Path():
            self._folder = self.tmp.mktemp(self.family)
            for part in self.make():
                part.save_pretrained(self._folder)
        return self._folder

    def stock(self, folder: Path | None = None) -> Any:
        model = self.make()[0]
        return model if folder is None else type(model).from_pretrained(folder).eval()

    def stock_parts(self) -> Parts:
        model, processor = self.make()
        return Parts(model, processor.tokenizer, processor)

    def attached(self, config: RegionConfig) -> Parts:
        model, processor = self.make()
        torch.manual_seed(1)
        pvit_ext.attach(model, config, processor=processor)
        return Parts(model.eval(), processor.tokenizer, processor)

    def talking(self, config: RegionConfig) -> Parts:
        parts = self.attached(config)
        rows = parts.model.get_input_embeddings().num_embeddings
        unread = range(len(parts.tokenizer) - 1, rows)  # and <region>
        parts.model.generation_config.suppress_tokens = [0, 1, 2, *NEVER_WRITTEN, *unread]
        return parts

    def language_model(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.language_model
        return found

    def generate(self, model: Any, batch: dict[str, Any], **options: Any) -> Tensor:
        found: Tensor = model.generate(**batch, **options)
        return found[:, batch["input_ids"].shape[1] :]


def load(folder: Path, **options: Any) -> Parts:
    """What ``load_pretrained_model`` reads from a folder, on the CPU."""
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu", **options)
    return Parts(model, tokenizer, processor)


def save(host: TinyHost, parts: Parts, folder: Path, **options: Any) -> Path:
    """Write a model and its tokenizer or processor."""
    parts.model.save_pretrained(folder, **options)
    loaded = Loaded(parts.tokenizer, parts.model, parts.processor, 0)
    host_of(parts.model).save_processor(loaded, str(host.folder()), folder)
    return folder


def batch_of(parts: Parts, queries: Sequence[Query]) -> dict[str, Any]:
    """Queries as arguments of ``forward``, padded on the left."""
    chat = host_of(parts.model).chat(*parts, None, None)
    prompts = [chat.prompt(query, f"query {number}") for number, query in enumerate(queries)]
    batch = chat.batch(queries, prompts)
    batch["input_ids"] = batch.pop("inputs", batch.get("input_ids"))
    return {key: value for key, value in batch.items() if key != "labels"}  # PaliGemma's


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    """The same for a stock model: without the arguments for regions."""
    return {key: value for key, value in batch.items() if not key.startswith("region")}


def with_labels(batch: dict[str, Any]) -> dict[str, Any]:
    """The same with labels: all words and no special token."""
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] < 8, -100)}


def logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """Logits of a batch, without gradients."""
    with torch.no_grad():
        found: Tensor = model.eval()(**batch).logits
    return found


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


WIDE, TALL = photo(97, 60, 0), photo(41, 90, 1)
BOX, OTHER = Region.box(10, 20, 40, 50), Region.box(3, 40, 20, 70)
PLAIN = [Query(WIDE, "what is in the"), Query(TALL, "where is a cat and a dog ?")]
PLAIN_MIXED = [*PLAIN, Query([TALL, WIDE], "which is larger ?"), Query(None, "where ?")]
MIXED = [
    Query(WIDE, "what is in <region> ?", [BOX]),
    Query(None, "where ?"),
    Query(TALL, "which is larger <region> and <region> ?", [OTHER, Region.point(20, 45)]),
    Query([TALL, WIDE], "which is larger <region> and <region> ?", [OTHER, Region.box(5, 5, 60, 50, image=1)]),
    Query(TALL, "and <region> ?", [OTHER, Region.box(0, 0, 30, 30)], history=[("what is <region> ?", "a dog")]),
    Query([WIDE, TALL], "is <image> in <image> or <Region><L100><L200><L700><L800></Region> ?"),
]
"""Several images, none, regions in markup, several turns."""

LLAVA = ["llava/llama"]
FEW: list[Any] = [*LLAVA, pytest.param("llava/mistral", marks=pytest.mark.slow)]
EVERY: list[Any] = list(FEW)
SAVED: list[Any] = list(FEW)
"""A few names, whose processors load from a folder."""
if HAS_TRANSFORMERS_HOST:
    from tests.hosts.transformers.inputs import ALL_BUT_TWO_SLOW
    from tests.hosts.transformers.inputs import EVERY as FAMILIES

    def _named(family: Any) -> Any:
        if isinstance(family, str):
            return f"transformers/{family}"
        return pytest.param(f"transformers/{family.values[0]}", marks=family.marks)

    FEW += [_named(family) for family in ALL_BUT_TWO_SLOW]
    EVERY += [_named(family) for family in FAMILIES]
    SLOW = ("llava_next", "pixtral", "qwen2_5_vl")
    SAVED += ["transformers/llava", *(pytest.param(f"transformers/{name}", marks=pytest.mark.slow) for name in SLOW)]


def make(name: str, tmp: pytest.TempPathFactory) -> TinyHost:
    """The host of a name in :data:`EVERY`."""
    kind, _, family = name.partition("/")
    return (TinyLlava if kind == "llava" else TinyTransformers)(family, tmp)


ON_EVERY_FAMILY = pytest.mark.parametrize("host", EVERY, indirect=True)
"""For tests that are quick enough to run on all families."""
