"""A model of transformers in conversation, by its processor's own chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from torch import Tensor

from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.prefix import Prefix
from pvit_ext.hosts.shown_images import ShownImages, prepare
from pvit_ext.hosts.stored_vision import TOWER_OUTPUT
from pvit_ext.hosts.transformers import embedded
from pvit_ext.hosts.transformers.dialogue import begins_with_bos, message, render_question
from pvit_ext.hosts.transformers.expanded_text import noting
from pvit_ext.hosts.transformers.prefix import with_prefix
from pvit_ext.hosts.transformers.processor_regions import ProcessorRegions
from pvit_ext.hosts.transformers.scored import answer_ids, log_probs
from pvit_ext.hosts.transformers.stored_processor import Reading, with_images_by
from pvit_ext.hosts.transformers.vision_pass import TransformersVisionPass
from pvit_ext.hosts.vision_pass import HostTower
from pvit_ext.regions.image import reading
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor, RegionPrompt
from pvit_ext.tokens.query import Query
from pvit_ext.tokens.routing_inputs import routing_inputs
from pvit_ext.tokens.turns import read_turns


def check_conv_version(conv_version: str) -> None:
    """Refuse a choice of templates: a checkpoint brings its own.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"conv_version={conv_version!r} (--conv-version) names one of LLaVA's templates; a model of transformers is "
        "asked by its processor's own chat template: leave it out"
    )


class TransformersChat:
    """A model of transformers in conversation; see :class:`~pvit_ext.hosts.chat.Chat`.

    Args:
        model, processor: from :func:`~pvit_ext.load_pretrained_model`.
        conv_version: must be None: such a checkpoint brings its own template.
        system: system prompt, for templates that have a place for one.

    Raises:
        ValueError: for a ``conv_version``, a processor without a chat template or of other region modules, or a system
            prompt where the template has no place for one.
    """

    def __init__(self, model: Any, processor: Any, conv_version: str | None, system: str | None) -> None:
        if conv_version is not None:
            check_conv_version(conv_version)
        if getattr(processor, "chat_template", None) is None or not hasattr(processor, "tokenizer"):
            raise ValueError(
                f"the third argument is a {type(processor).__name__} that has no chat template, or no tokenizer: give "
                "the one that load_pretrained_model returns, or set its chat_template"
            )
        self.model, self.processor, self.system = model, processor, system
        self.tokenizer = processor.tokenizer
        self.special = SpecialTokens(self.tokenizer)
        regions = getattr(processor, "pvit_regions", None)
        _check_processor(model, regions)
        self.regions: RegionProcessor | None = None if regions is None else regions.samples
        if system is not None:
            self._check_system(system)

    def prompt(self, query: Query, name: str) -> RegionPrompt:
        """The conversation as one text, by the processor's chat template.

        Raises:
            RegionError: naming the query.
        """
        with reading(name):
            sizes = query.image_sizes()
        text = render_question(self.processor, self._turns(query, len(sizes), name), name)
        made = (self.regions or RegionProcessor()).prompt([text], query.all_regions(name), sizes, name, query.task)
        if made.regions and self.regions is None:
            raise RegionError(
                f"{name}: regions were given, but the model has no region encoder; "
                "pvit_ext.attach(model, config, processor=processor)"
            )
        return made

    def vision_tower(self) -> HostTower | None:
        """The tower; None for a model without region modules, or whose tower's weights are not where they run."""
        if self.regions is None or getattr(self.model, "region_module", None) is None:
            return None
        tower = HostTower(TransformersVisionPass(self.model, self.processor), pixel_dtype=self.model.dtype)
        return None if any(parameter.is_meta for parameter in tower.seen.module.parameters()) else tower

    def batch(
        self, queries: Sequence[Query], prompts: Sequence[RegionPrompt], shown: ShownImages | None = None
    ) -> dict[str, Any]:
        """Arguments of the model's ``generate``.

        Args:
            queries, prompts: one of each for a sample.
            shown: what the towers make of the images, if that is shared. A batch with a question about several images
                does without, where the family prepares these differently from one alone.

        Raises:
            RegionError: naming the query whose image cannot be read, or whose prompt is too long.
        """
        stock = self.regions or RegionProcessor()
        shown = None if self._differs_among_several(queries) else shown
        regions = stock if shown is None else shown.processor(stock)
        pairs = zip(queries, prompts, strict=True)
        samples = [prepare(regions, query, prompt, shown) for query, prompt in pairs]
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
        if begins_with_bos(self.tokenizer, prompts[0].texts[0]):
            options["add_special_tokens"] = False
        if self.regions is None:
            images = [sample.images for sample in samples]
            given = images if any(images) else None
            made = noting(self.processor)(images=given, text=[prompt.texts[0] for prompt in prompts], **options)
        else:
            made = self._processor_of(shown).encode(samples, **options)
        self._check_length(made["attention_mask"], prompts)
        asked = [query.turns(prompt.name)[0] for query, prompt in zip(queries, prompts, strict=True)]
        made.update(routing_inputs(regions.tasks, [prompt.task for prompt in prompts], asked, self.tokenizer))
        known = {} if shown is None else {TOWER_OUTPUT: shown.output(samples, self.model.device)}
        return {key: self._placed(value) for key, value in made.items()} | known

    def _differs_among_several(self, queries: Sequence[Query]) -> bool:
        """Whether an image of these queries is prepared differently from the same image alone."""
        known = getattr(self.processor, "pvit_regions", None)
        differs = known is not None and known.family.prepares_several_differently
        return differs and any(len(query.sources()) > 1 for query in queries)

    def _processor_of(self, shown: ShownImages | None) -> Any:
        """The processor, with what its image processor made of shared images."""
        return self.processor if shown is None else with_images_by(self.processor, Reading(shown.stored))

    def with_prefix(
        self, batch: dict[str, Any], first: Callable[[], dict[str, Any]], names: object, prefix: Prefix
    ) -> dict[str, Any]:
        """The batch with its beginning read; see :func:`~pvit_ext.hosts.transformers.prefix.with_prefix`."""
        return with_prefix(self.model, batch, first, names, prefix)

    def positions(self, batch: dict[str, Any]) -> list[int]:
        """Positions of each prompt, which its ids take already."""
        counts: list[int] = batch["attention_mask"].sum(1).tolist()
        return counts

    def answer_ids(self, prompt: RegionPrompt, answer: str) -> list[int]:
        """Ids of an answer; see :func:`~pvit_ext.hosts.transformers.scored.answer_ids`."""
        return answer_ids(self.processor, prompt.texts[0], answer)

    def log_probs(self, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities of answers; see :func:`~pvit_ext.hosts.transformers.scored.log_probs`."""
        known = getattr(self.processor, "pvit_regions", None)
        return log_probs(self.model, batch, answers, known is not None and known.family.sees_prompt_both_ways)

    def prompt_embeds(self, batch: dict[str, Any]) -> list[Tensor]:
        """Prompts as the language model reads them; see :mod:`pvit_ext.hosts.transformers.embedded`."""
        known = getattr(self.processor, "pvit_regions", None)
        return embedded.prompt_embeds(self.model, batch, known is not None and known.family.sees_prompt_both_ways)

    def language_model(self) -> Any:
        """The language model alone; see :mod:`pvit_ext.hosts.transformers.embedded`."""
        return embedded.language_model(self.model)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the processor's tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def ends(self) -> Ends:
        """The ids by which the model's own generation ends."""
        ids = self.model.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return Ends(list(ids) if isinstance(ids, (list, tuple)) else [int(ids)], [])

    def answers(self, generated: Tensor, batch: dict[str, Any]) -> list[str]:
        """The texts of what ``generate`` returned (N, L), which begins with the prompts."""
        new = generated[:, batch["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _turns(self, query: Query, images: int, name: str) -> list[tuple[str, str]]:
        """(role, text) of each turn."""
        regions = self.regions or RegionProcessor()
        questions, answers = read_turns(query, images, regions, self.special, name)
        turns = [] if self.system is None else [("system", self.system)]
        for question, answer in zip(questions, answers, strict=True):
            turns.append(("user", question))
            turns += [] if answer is None else [("assistant", answer)]
        return turns

    def _check_system(self, system: str) -> None:
        """Refuse a system prompt that the template drops or does not allow."""
        messages, problem = [message("system", system), message("user", "?")], ""
        try:
            if system.strip() in str(self.processor.apply_chat_template(messages, tokenize=False)):
                return
        except TemplateError as error:
            problem = f" ({error})"
        raise ValueError(
            f"the chat template of this {type(self.processor).__name__} has no place for a system prompt{problem}: "
            "leave system= (--system) out, and put it into the question"
        )

    def _check_length(self, mask: Tensor, prompts: Sequence[RegionPrompt]) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for taken, prompt in zip(mask.sum(1).tolist(), prompts, strict=True):
            if limit is not None and taken > limit:
                raise RegionError(
                    f"{prompt.name}: its prompt takes {taken} positions, the model's maximum "
                    f"(max_position_embeddings) is {limit}"
                )

    def _placed(self, value: Any) -> Any:
        """A tensor where the model's inputs go, pixels in its dtype."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)


def _check_processor(model: Any, regions: ProcessorRegions | None) -> None:
    """A processor of another encoder would prepare other inputs, and other numbers of positions."""
    if getattr(model, "region_module", None) is None or (regions is not None and regions.is_for(model.config)):
        return
    held = "knows no region encoder" if regions is None else f"is for the region encoder {regions.config.encoder!r}"
    raise ValueError(
        f"the third argument is a processor that {held}, the model has {model.region_config.encoder!r}, or other "
        "options of it: give the one that load_pretrained_model returned, or that attach was given as processor="
    )
