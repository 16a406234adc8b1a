"""The llava package as a host: its models loaded, given regions, and in conversation."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.files import read_json
from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.checkpoint_kind import CheckpointKind
from pvit_ext.hosts.find import Loaded
from pvit_ext.hosts.llava import embedded, loading
from pvit_ext.hosts.llava.batch import build_prompt, collate, count_positions
from pvit_ext.hosts.llava.chat import conversation, stops, template_named
from pvit_ext.hosts.llava.prefix import with_prefix
from pvit_ext.hosts.llava.scored import answer_ids, log_probs
from pvit_ext.hosts.llava.tokenizer import keep_original_files
from pvit_ext.hosts.llava.vision_pass import LlavaVisionPass
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.prefix import Prefix
from pvit_ext.hosts.shown_images import ShownImages
from pvit_ext.hosts.stored import StoredModel
from pvit_ext.hosts.vision_pass import HostTower
from pvit_ext.tokens.processor import RegionPrompt
from pvit_ext.tokens.query import Query

logger = logging.getLogger(__name__)


class LlavaChat:
    """A LLaVA model in conversation; see :class:`~pvit_ext.hosts.chat.Chat`.

    Args:
        model, tokenizer, image_processor: from :func:`~pvit_ext.load_pretrained_model`.
        conv_version: LLaVA's conversation template; default the one the checkpoint was trained with, else the one
            like the tokenizer's own chat template, else the usual one of the model's kind.
        system: system prompt in place of the template's.

    Raises:
        TypeError: for a model of LLaVA's stock classes.
        ValueError: for an unknown template, or one without a place for a system prompt.
    """

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, conv_version: str | None, system: str | None
    ) -> None:
        if not hasattr(model, "region_config"):
            raise TypeError(
                f"the model is a {type(model).__name__} of LLaVA's stock classes: load it with "
                "pvit_ext.load_pretrained_model, or give it regions with pvit_ext.attach(model, config)"
            )
        if not hasattr(tokenizer, "convert_tokens_to_ids"):
            raise TypeError(
                f"the second argument is a {type(tokenizer).__name__}, and no tokenizer: give what "
                "load_pretrained_model returned, in the order model, tokenizer, image processor"
            )
        if hasattr(image_processor, "convert_tokens_to_ids") or hasattr(image_processor, "tokenizer"):
            raise TypeError(
                f"the third argument is a {type(image_processor).__name__}, and no image processor: give the one that "
                "load_pretrained_model returned with this model"
            )
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.special = SpecialTokens(tokenizer)
        self.template = conversation(model, conv_version, system, tokenizer)

    @property
    def separator(self) -> str | None:
        """The text behind an answer."""
        separator: str | None = self.template.sep2 or self.template.sep
        return separator

    def prompt(self, query: Query, name: str) -> RegionPrompt:
        """The conversation as one text; see :func:`~pvit_ext.hosts.llava.batch.build_prompt`."""
        return build_prompt(query, self.template, name, self.model, self.special)

    def vision_tower(self) -> HostTower | None:
        """The tower; None for a model without one, or whose weights are not where they run."""
        base = getattr(self.model, "get_base_model", lambda: self.model)()
        tower = getattr(base.get_vision_tower(), "vision_tower", None)
        if tower is None or any(parameter.is_meta for parameter in tower.parameters()):
            return None
        names = ("image_aspect_ratio", "image_grid_pinpoints")
        options = {name: getattr(base.config, name, None) for name in names}
        seen = LlavaVisionPass(base, SimpleNamespace(image_processor=self.image_processor, **options))
        return HostTower(seen, pixel_dtype=base.lm_head.weight.dtype)

    def batch(
        self, queries: Sequence[Query], prompts: Sequence[RegionPrompt], shown: ShownImages | None = None
    ) -> dict[str, Any]:
        """Arguments of the model's ``generate``; see :func:`~pvit_ext.hosts.llava.batch.collate`."""
        return collate(self.model, self.tokenizer, self.image_processor, queries, prompts, shown)

    def with_prefix(
        self, batch: dict[str, Any], first: Callable[[], dict[str, Any]], names: object, prefix: Prefix
    ) -> dict[str, Any]:
        """The batch with its beginning read; see :func:`~pvit_ext.hosts.llava.prefix.with_prefix`."""
        return with_prefix(self.model, batch, names, prefix)

    def positions(self, batch: dict[str, Any]) -> list[int]:
        """Positions of each prompt; see :func:`~pvit_ext.hosts.llava.batch.count_positions`."""
        return count_positions(self.model, batch)

    def answer_ids(self, prompt: RegionPrompt, answer: str) -> list[int]:
        """Ids of an answer; see :func:`~pvit_ext.hosts.llava.scored.answer_ids`."""
        return answer_ids(self.tokenizer, self.template, prompt.texts[0], answer)

    def log_probs(self, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities of answers; see :func:`~pvit_ext.hosts.llava.scored.log_probs`."""
        return log_probs(self.model, batch, answers)

    def prompt_embeds(self, batch: dict[str, Any]) -> list[Tensor]:
        """Prompts as the language model reads them; see :mod:`pvit_ext.hosts.llava.embedded`."""
        return embedded.prompt_embeds(self.model, batch)

    def language_model(self) -> Any:
        """The language model alone; see :mod:`pvit_ext.hosts.llava.embedded`."""
        return embedded.language_model(self.model)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer with its original files, if they are still where it came from."""
        self.tokenizer.save_pretrained(folder)
        source = self.tokenizer.name_or_path
        try:
            keep_original_files(source, folder)
        except OSError as error:  # a folder that has moved, or a tokenizer that never had one
            text = "the tokenizer's original files could not be copied from %r: older versions may read other ids (%s)"
            logger.warning(text, source, error)

    def ends(self) -> Ends:
        """How an answer ends; see :func:`~pvit_ext.hosts.llava.chat.stops`."""
        return Ends(*stops(self.tokenizer, self.separator))

    def answers(self, generated: Tensor, batch: dict[str, Any]) -> list[str]:
        """The texts of what ``generate`` returned (N, L): LLaVA's returns new tokens only."""
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [(text.split(self.separator)[0] if self.separator else text).strip() for text in texts]


def check_installed() -> None:
    """Raise ImportError if LLaVA, whose own code loads and trains its checkpoints, is not installed."""
    if importlib.util.find_spec("llava") is None:
        raise ImportError(
            "checkpoints of LLaVA's own code need llava, which is not installed: pip install --no-deps "
            "llava-torch==1.2.2.post1 (docs/install.md), or `pvit-ext convert` them to transformers where it is"
        )


class LlavaHost:
    """LLaVA's own model classes, of llava-torch and of the trees that derive from it."""

    def holds(self, model: Any) -> bool:
        """Whether a model splices its images by LLaVA's function; adapters around it pass the name on."""
        return hasattr(model, "prepare_inputs_labels_for_multimodal")

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a config.json is flat, as LLaVA writes it: transformers' own models nest that of their tower."""
        return "text_config" not in values and "vision_config" not in values

    def load(self, kind: CheckpointKind, call: LoadCall) -> Loaded:
        """Load a LLaVA and what lies on it; see :func:`~pvit_ext.hosts.llava.loading.load`."""
        check_installed()
        return loading.load(kind, call)

    def dtype(self, path: str, call: LoadCall) -> torch.dtype:
        """LLaVA's function knows the call alone."""
        return call.dtype

    def save_processor(self, loaded: Loaded, path: str, folder: Path) -> None:
        """Write the tokenizer with its original files; the image processor is in the vision tower's own folder."""
        loaded.tokenizer.save_pretrained(folder)
        keep_original_files(path, folder)

    def stored(self, folder: Path) -> StoredModel:
        """What region modules need to know of a LLaVA on disk; see :func:`~pvit_ext.hosts.llava.stored.read_stored`."""
        check_installed()
        from pvit_ext.hosts.llava.stored import read_stored

        return read_stored(folder)

    def add_regions(self, folder: Path, regions: dict[str, Any]) -> None:
        """Name new region modules in config.json, the only file of LLaVA's that does.

        Raises:
            ValueError: for a vision aggregator on a registered vision tower that offers it no layers.
        """
        if regions.get("lion_aggregator"):
            from pvit_ext.hosts.llava.stored import check_aggregator

            check_aggregator(folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**read_json(path), CONFIG_KEY: regions}, indent=2) + "\n")

    def attach(
        self, model: Any, config: RegionConfig, checkpoint: str, filled_later: bool, facts: EncoderFacts | None,
        processor: Any,
    ) -> Any:  # fmt: skip
        """Give a loaded LLaVA a region encoder; its prompts are tokenized here, so it has no use for a processor."""
        return loading.attach(model, config, checkpoint, filled_later, facts)

    def check_conv_version(self, conv_version: str) -> None:
        """Refuse what is none of LLaVA's templates; see :func:`~pvit_ext.hosts.llava.chat.template_named`."""
        check_installed()
        template_named(conv_version)

    def chat(
        self, model: Any, tokenizer: Any, processor: Any, conv_version: str | None, system: str | None
    ) -> LlavaChat:
        """Open a conversation; see :class:`LlavaChat`."""
        return LlavaChat(model, tokenizer, processor, conv_version, system)


HOST = LlavaHost()
