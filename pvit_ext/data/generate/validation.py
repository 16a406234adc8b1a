"""Whether a reply may be trained on: each question points at a region that was shown, no answer holds one or doubts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pvit_ext.data.generate.contradiction import contradiction
from pvit_ext.data.generate.messages import region_name
from pvit_ext.data.generate.reply import BadReply
from pvit_ext.data.generate.schema import Description, Dialogue, Turn
from pvit_ext.data.generate.strategies import Job
from pvit_ext.data.json_records import has_half_surrogate
from pvit_ext.data.unread import unread_placeholder
from pvit_ext.prompt import find_placeholders
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import RegionError

_NAME = re.compile(r"\[\s*(R\d+)\s*\]", re.IGNORECASE)
_BARE_NAME = re.compile(r"\bR\d+\b")
_MARKUP = re.compile(r"<Region>.*?</Region>", re.DOTALL)
_NUMBER = r"-?\d*\.?\d+"
_COORDINATES = re.compile(
    rf"[\[(]\s*{_NUMBER}\s*(?:[,;]\s*{_NUMBER}\s*){{1,3}}[\])]"  # (0.1, 0.2)
    rf"|\b0?\.\d{{2,}}\s*[,;]\s*0?\.\d{{2,}}"  # 0.12, 0.34
    rf"|\bx[01]?\s*[=:]\s*{_NUMBER}|<L\d+>",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"</?s>|<\|[^|<>]{1,40}\|>|\[/?INST\]|<(?:image|im_start|im_end|unk|pad|bos|eos)>", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:(?:is|are|'s|it's)(?: not|n't) (?:clear|certain|possible to (?:tell|say|determine|know)|specified|mentioned|"
    r"stated|provided|given|described|visible enough)|unclear|cannot (?:be )?(?:tell|told|determined?|say|said|know"
    r"|known|inferred)|can't (?:tell|determine|say|know)|could not be determined|hard to (?:tell|say)|no information|"
    r"not enough (?:information|detail|context)|i(?:'m| am) (?:not sure|unable)|as an ai)\b",
    re.IGNORECASE,
)
_THE_INPUT = re.compile(
    r"\b(?:captions?|annotat(?:ion|ions|ed)|bounding box(?:es)?|coordinates?|(?:this|provided|given) document|"
    r"json|metadata|(?:the )?(?:provided|given) (?:information|description|data|context|text|labels?)|"
    r"according to the (?:description|information|data|labels?|context)|ask_about)\b",
    re.IGNORECASE,
)
_SAME_BOX = 6e-4
"""Boxes are shown with three digits."""


@dataclass(frozen=True)
class CheckedTurn:
    """A turn that may be trained on.

    Args:
        question: with ``<region>``.
        answer: plain text.
        regions: numbers of the scene's objects, one for each ``<region>``.
    """

    question: str
    answer: str
    regions: tuple[int, ...]


def check_dialogue(reply: Dialogue, job: Job, turns: tuple[int, int]) -> list[CheckedTurn]:
    """The turns of a reply; of a question that is asked twice the first.

    Args:
        reply: that fits the schema.
        job: that it was asked for.
        turns: how many were wanted at least and at most; more than that are cut.

    Raises:
        BadReply: in words that help the model.
    """
    checked: dict[str, CheckedTurn] = {}
    for number, turn in enumerate(reply.turns, 1):
        try:
            made = _check_turn(turn, job)
        except BadReply as error:
            raise BadReply(f"turn {number}: {error}") from error
        checked.setdefault(f"{made.regions} {made.question.casefold()}", made)
    kept = list(checked.values())[: turns[1]]
    if len(kept) < turns[0]:
        raise BadReply(f"it has {len(kept)} different question(s), at least {turns[0]} are wanted")
    asked = {number for turn in kept for number in turn.regions}
    if job.asked and not asked & set(job.asked):
        names = ", ".join(region_name(job.shown.index(number)) for number in job.asked)
        raise BadReply(f"no question points at one of ask_about: {names}")
    if job.strategy == "ocr":
        _check_quote(kept, job)
    return kept


def check_description(reply: Description, job: Job) -> Description:
    """The description, with the phrases that can be kept.

    Raises:
        BadReply: in words that help the model.
    """
    _check_text(reply.description, "the description")
    _check_no_region(reply.description, "the description")
    _check_truth(reply.description, job, "the description")
    text = reply.description.casefold()
    for one in reply.grounding:
        _named(one.region, job)
        if one.phrase.casefold() not in text:
            raise BadReply(f"the phrase {one.phrase!r} does not stand in the description word for word")
    return reply


def _check_turn(turn: Turn, job: Job) -> CheckedTurn:
    _check_text(turn.question, "the question")
    _check_text(turn.answer, "the answer")
    if problem := unread_placeholder([_MARKUP.sub("", turn.question), turn.answer]):
        raise BadReply(problem.replace("conversations[0]", "the question").replace("conversations[1]", "the answer"))
    question, regions = _regions_of(turn.question, job)
    _check_no_region(turn.answer, "the answer")
    if _THE_INPUT.search(question):
        raise BadReply(f"the question speaks of the input ({_shown(_THE_INPUT, question)}); speak of the image")
    if _UNSURE.search(turn.answer):
        raise BadReply(f"the answer is unsure ({_shown(_UNSURE, turn.answer)}); ask what can be answered for certain")
    _check_truth(turn.answer, job, "the answer")
    return CheckedTurn(question.strip(), turn.answer.strip(), tuple(regions))


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise BadReply(f"{what} is empty")
    if has_half_surrogate(text):
        raise BadReply(f"{what} holds half of a surrogate pair")
    if found := _SPECIAL.search(text):
        raise BadReply(f"{what} holds the special token {found[0]!r}")


def _regions_of(question: str, job: Job) -> tuple[str, list[int]]:
    """The question with ``<region>``, and the object of each."""
    if "<region>" in question:
        raise BadReply("the question holds <region>; write the name of a region, such as [R1]")
    try:
        inline = iter([region for region in find_placeholders(question, "the question") if region])
    except RegionError as error:
        raise BadReply(str(error)) from error
    found: list[int] = []

    def replaced(match: re.Match[str]) -> str:
        if match[0].startswith("<"):
            (x0, y0), (x1, y1) = next(inline).points
            found.append(_shown_box((x0, y0, x1, y1), job))
        else:
            found.append(_named(match[0], job))
        return "<region>"

    text = re.sub(f"{_MARKUP.pattern}|{_NAME.pattern}", replaced, question, flags=re.DOTALL | re.IGNORECASE)
    if bare := _BARE_NAME.search(text):
        raise BadReply(f"{bare[0]} in a question is written [{bare[0]}], each with brackets of its own")
    if coordinates := _COORDINATES.search(text):
        raise BadReply(f"the question holds coordinates: {coordinates[0]}")
    if not found:
        raise BadReply("the question points at no region; write the name of one, such as [R1]")
    return text, found


def _named(name: str, job: Job) -> int:
    match = _NAME.fullmatch(name.strip()) or _BARE_NAME.fullmatch(name.strip().upper())
    index = int(re.sub(r"\D", "", match[0])[:6] or 0) - 1 if match else -1
    if not 0 <= index < len(job.shown):
        raise BadReply(f"{name[:40]!r} is no region of this image; there are [R1] to {region_name(len(job.shown) - 1)}")
    return job.shown[index]


def _shown_box(box: Box, job: Job) -> int:
    for number in job.shown:
        if all(abs(a - b) <= _SAME_BOX for a, b in zip(box, job.scene.objects[number].box, strict=True)):
            return number
    raise BadReply(f"the box {list(box)} was not shown; write names such as [R1], no boxes")


def _check_no_region(text: str, what: str) -> None:
    if "region>" in text.lower() or _NAME.search(text) or _BARE_NAME.search(text):
        raise BadReply(f"{what} holds a region; say in words what is meant")
    if _COORDINATES.search(text):
        raise BadReply(f"{what} holds coordinates ({_shown(_COORDINATES, text)}); say in words where it is")
    if _THE_INPUT.search(text):
        raise BadReply(f"{what} speaks of the input ({_shown(_THE_INPUT, text)}); speak of the image")


def _check_truth(text: str, job: Job, what: str) -> None:
    scene = job.scene
    labels = [thing.label for thing in scene.objects if thing.label]
    if problem := contradiction(text, scene.captions, labels):
        raise BadReply(f"{what} contradicts what is known: {problem}")


def _check_quote(turns: Sequence[CheckedTurn], job: Job) -> None:
    written = [_letters(text) for number in job.asked if (text := job.scene.objects[number].text)]
    answers = _letters(" ".join(turn.answer for turn in turns))
    if written and not any(text in answers for text in written if text):
        raise BadReply("no answer quotes the words that are written in the image")


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _shown(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return repr(found[0][:60]) if found else ""
