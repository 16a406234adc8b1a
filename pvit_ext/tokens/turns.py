"""The turns of a query as a host's template gets them, without placeholders that nothing reads."""

from __future__ import annotations

from collections.abc import Sequence

from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import HINT_STYLE, NOT_IN_ANSWERS
from pvit_ext.prompt import HINT_PLACEHOLDER, IMAGE_PLACEHOLDER, NOT_READ, REGION_PLACEHOLDER, foreign_tag_of_question
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.tokens.query import Query


def read_turns(
    query: Query, images: int, processor: RegionProcessor, special: SpecialTokens, name: str, behind_image: str = ""
) -> tuple[list[str], list[str | None]]:
    """Questions and answers of a query, the last answer None.

    Args:
        query: the question.
        images: how many it has.
        processor: of the model.
        special: tokens of the model's tokenizer; a question may hold what this one added, a tag none of them.
        name: of the query, for messages.
        behind_image: text behind each ``<image>`` that is put before the first question.

    Raises:
        RegionError: naming the query, for anything but text, another number of ``<image>``, tags that the model does
            not read, ``<hint>`` in an answer where it is a vector, or a placeholder of other data sets, which would
            stay in the prompt as text.
    """
    questions, answers = query.turns(name)
    if processor.tag_style == HINT_STYLE:
        _refuse_hints(answers, name)
    if images and not query.literal:
        _refuse_foreign_tags(questions, special, name)
    given = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
    if given not in (0, images):
        raise RegionError(f"{name}: {given} <image> in the text, {images} image(s) given")
    if not given:
        questions[0] = (IMAGE_PLACEHOLDER + behind_image) * images + questions[0]
    if query.tags is not None:
        questions[0] = processor.tagged(questions[0], query.tags, name, images, special)
    return questions, answers


def _refuse_hints(answers: Sequence[str | None], name: str) -> None:
    for number, answer in enumerate(answers):
        if answer is not None and HINT_PLACEHOLDER in answer:
            raise RegionError(f"{name}, history[{number}]: {NOT_IN_ANSWERS}")


def _refuse_foreign_tags(questions: Sequence[str], special: SpecialTokens, name: str) -> None:
    for number, question in enumerate(questions):
        if foreign_tag_of_question(question) is None:
            continue
        own = special.tokenizer.get_added_vocab() if hasattr(special.tokenizer, "get_added_vocab") else ()
        if (tag := foreign_tag_of_question(question, own)) is not None:
            place = "" if number == len(questions) - 1 else f", history[{number}]"
            raise RegionError(
                f"{name}{place}: {tag[:40]!r} in its question {NOT_READ}; write {REGION_PLACEHOLDER}, as it stands "
                "here, once for each region, in their order; what is meant as text goes without its angle brackets"
            )
