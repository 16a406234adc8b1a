"""A model of transformers' in conversation, by the chat template of its processor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pvit_ext.hosts.chat import Ends
from pvit_ext.prompt import IMAGE_PLACEHOLDER
from pvit_ext.regions.image import reading
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor, RegionPrompt
from pvit_ext.tokens.query import Query


class TransformersChat:
    """See :class:`~pvit_ext.hosts.chat.Chat`.

    Args:
        model: with regions.
        processor: of the model, with regions.
        conv_version: of LLaVA's templates; there are none here.
        system: system prompt, or None for that of the template.

    Raises:
        ValueError: when a conversation template is named, or the processor has none.
    """

    def __init__(self, model: Any, processor: Any, conv_version: str | None, system: str | None) -> None:
        if conv_version is not None:
            raise ValueError(
                f"conv_version={conv_version!r} names a template of LLaVA's code; models of transformers' have a chat "
                "template of their own: leave it out"
            )
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"{type(processor).__name__} has no chat template: give it one (processor.chat_template = ...), or "
                "call processor and model.generate yourself"
            )
        self.model, self.processor, self.system = model, processor, system

    def prompt(self, query: Query, name: str) -> RegionPrompt:
        """The conversation as one text; the processor describes and paints its regions later, in :meth:`batch`."""
        with reading(name):
            sizes = query.image_sizes()
        text = self.processor.apply_chat_template(
            self._turns(query, len(sizes), name), add_generation_prompt=True, tokenize=False
        )
        prompt = RegionProcessor().prompt([text], query.all_regions(name), sizes, name)
        if (encoder := self.model.region_module.region_encoder) is not None:
            encoder.check_kinds(prompt.given)
        return prompt

    def _turns(self, query: Query, images: int, name: str) -> list[dict[str, Any]]:
        """The conversation as chat templates take it; images come first, unless ``<image>`` says where they go."""
        questions, answers = query.turns(name)
        given = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
        if given not in (0, images):
            raise RegionError(f"{name}: {given} {IMAGE_PLACEHOLDER} in the text, {images} image(s) given")
        if not given:
            questions[0] = IMAGE_PLACEHOLDER * images + questions[0]
        turns = [] if self.system is None else [_turn("system", self.system)]
        for question, answer in zip(questions, answers, strict=True):
            turns += [_turn("user", question)] + ([] if answer is None else [_turn("assistant", answer)])
        return turns

    def batch(self, queries: Sequence[Query], prompts: Sequence[RegionPrompt]) -> dict[str, Any]:
        """Arguments of the model's ``generate``, left-padded."""
        images = []
        for query, prompt in zip(queries, prompts, strict=True):
            with reading(prompt.name):
                images.append(query.load_images())
        out = self.processor(
            images=images if any(images) else None,
            text=[prompt.texts[0] for prompt in prompts],
            regions=[prompt.given for prompt in prompts],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        limit = self.model.config.get_text_config().max_position_embeddings
        for prompt, length in zip(prompts, out["attention_mask"].sum(1).tolist(), strict=True):
            if length > limit:
                raise RegionError(f"{prompt.name}: its prompt takes {length} positions, the model's maximum is {limit}")
        return dict(out.to(self.model.device, self.model.dtype))

    def ends(self) -> Ends:
        """The tokens at which the model's own generation config ends."""
        found = self.model.generation_config.eos_token_id
        found = self.processor.tokenizer.eos_token_id if found is None else found
        return Ends([found] if isinstance(found, int) else list(found), [])

    def answers(self, generated: Tensor, batch: dict[str, Any]) -> list[str]:
        """The texts behind the prompt."""
        new = generated[:, batch["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _turn(role: str, text: str) -> dict[str, Any]:
    parts = [part for part in re.split(f"({re.escape(IMAGE_PLACEHOLDER)})", text) if part]
    content = [{"type": "image"} if part == IMAGE_PLACEHOLDER else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}
