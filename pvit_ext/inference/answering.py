"""A file of questions answered: batched, spread over the ranks, and gone on with where it was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.data.scan import BadRecord
from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.hosts.loading import check_conv_version, dtype_of_load, load_pretrained_model
from pvit_ext.inference.answer_file import AnswerFile
from pvit_ext.inference.asking import ask_in
from pvit_ext.inference.bad_questions import BadQuestions, check_bad, made_or_listed
from pvit_ext.inference.decoding import own_mark, own_options
from pvit_ext.inference.questions import Question
from pvit_ext.inference.ranks import Ranks, ranks
from pvit_ext.inference.scoring import Score, score_in
from pvit_ext.inference.session import Session
from pvit_ext.tokens.query import Query


@dataclass(frozen=True)
class Asking:
    """A checkpoint, and how it is asked.

    Args:
        model: folder or hub id.
        mark: of the checkpoint's files.
        base: checkpoint under it, in place of the one that it names.
        batch_size: questions per ``generate``.
        max_new_tokens: of an answer.
        conv_version, system: see :func:`~pvit_ext.ask`.
        device, dtype: see :func:`~pvit_ext.load_pretrained_model`.
        scores: whether each answer comes with its log-likelihood.
        image_bytes: kept of what towers made of images; 0 for none.
    """

    model: str
    mark: str
    base: str | None = None
    batch_size: int = 8
    max_new_tokens: int = 64
    conv_version: str | None = None
    system: str | None = None
    device: str | None = None
    dtype: str | None = None
    scores: bool = False
    image_bytes: int = 1 << 30

    def depends(self) -> dict[str, Any]:
        """What answers depend on, beside the questions."""
        return {
            "model": self.mark,
            "conv version": self.conv_version,
            "system": self.system,
            "max new tokens": self.max_new_tokens,
            "dtype": str(dtype_of_load(self.model, self.base, self.device, self.dtype)).removeprefix("torch."),
            "scores": self.scores,
            **own_mark(own_options(self.model, self.base)),
        }

    def session(self, tokenizer: Any, model: Any, image_processor: Any) -> Session:
        """The loaded checkpoint, asked this way."""
        features = ImageFeatures(self.image_bytes) if self.image_bytes else None
        return Session(model, tokenizer, image_processor, self.conv_version, self.system, features)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        answers: that are there now.
        before: that were there before.
        problems: of the questions that could not be asked.
        listed: file that lists these.
    """

    answers: int
    before: int
    problems: list[str]
    listed: Path


def answer_file(
    out: Path, questions: Sequence[Question], bad: Sequence[BadRecord], asking: Asking, max_bad_records: int = 0
) -> Outcome | None:
    """Answer the questions that have no answer yet.

    Args:
        out: JSON Lines to write.
        questions: of the run, each with an id of its own.
        bad: what could not be read as a question.
        asking: the model.
        max_bad_records: how many may be bad, before anything is asked.

    Returns:
        what became of it; None on ranks beside the first.

    Raises:
        RecordError: for more bad records than that, with the list; the model has not been loaded then.
        ValueError: for answers of another run in ``out``, or to other questions of the same ids, and for a
            conversation template that the model does not have; that one before anything is written.
    """
    check_bad(bad, questions, max_bad_records)
    check_conv_version(asking.model, asking.base, asking.conv_version)
    with ranks() as here, AnswerFile(out, asking.depends(), here.rank) as answers:
        listed = BadQuestions(out)
        if here.rank == 0:
            answers.gather()
            listed.start(bad)
        here.wait()
        found = answers.lines()
        here.wait()  # before any rank writes, all have read the same
        _check_same(found, questions, out)
        _ask_all([one for one in questions if one.id not in found], asking, here, answers, listed)
        here.wait()
        if here.rank != 0:
            return None
        answers.gather()
        answers.arrange(one.id for one in questions)
        return Outcome(len(answers.lines()), len(found), listed.problems(), listed.path)


def _check_same(found: Mapping[str, Mapping[str, Any]], questions: Iterable[Question], out: Path) -> None:
    for one in questions:
        if one.id in found and found[one.id].get("asked") != one.mark:
            raise ValueError(
                f"{one.location}: {out} answers another question of the id {one.id!r}: it was changed since; "
                "name another --out, or give it a new id"
            )


def _ask_all(
    questions: Sequence[Question], asking: Asking, here: Ranks, answers: AnswerFile, listed: BadQuestions
) -> None:
    batches = here.batches(by_image(questions), asking.batch_size, lambda one: one.images)
    if not batches:
        return
    from tqdm import tqdm

    device = here.device(asking.device)
    loaded = load_pretrained_model(asking.model, base=asking.base, device=device, dtype=asking.dtype)
    session = asking.session(*loaded[:3])
    with tqdm(total=sum(map(len, batches)), desc=here.named("asking"), unit="question", disable=here.rank > 0) as bar:
        for batch in batches:
            lines = made_or_listed(batch, lambda some: _answered(some, session, asking), listed)
            answers.append(lines)
            bar.update(len(batch))


def by_image(questions: Sequence[Question]) -> list[Question]:
    """Questions about the same images one after the other, in the order in which the images come first."""
    first: dict[tuple[str, ...], int] = {}
    return sorted(questions, key=lambda one: first.setdefault(one.images, len(first)))


def _answered(batch: Sequence[Question], session: Session, asking: Asking) -> list[dict[str, Any]]:
    """The answers of a batch; those to choose come behind those that are written freely."""
    parts = [[one for one in batch if bool(one.choices) is chosen] for chosen in (False, True)]
    lines: list[dict[str, Any]] = []
    for part, lines_of in zip(parts, (_free, _chosen), strict=True):
        if part:
            queries = [one.query().read_by(session.model) for one in part]
            lines += lines_of(part, queries, session, asking)
    return lines


def _free(part: Sequence[Question], queries: Sequence[Query], session: Session, asking: Asking) -> list[dict[str, Any]]:
    texts = ask_in(session, queries, asking.max_new_tokens, asking.batch_size)
    lines = [_line(one, text) for one, text in zip(part, texts, strict=True)]
    if asking.scores:
        scored = score_in(session, queries, [[text] for text in texts], asking.batch_size)
        lines = [{**line, **_numbers(own)} for line, (own,) in zip(lines, scored, strict=True)]
    return lines


def _chosen(
    part: Sequence[Question], queries: Sequence[Query], session: Session, asking: Asking
) -> list[dict[str, Any]]:
    scored = score_in(session, queries, [one.choices for one in part], asking.batch_size)
    return [_choice(one, own) for one, own in zip(part, scored, strict=True)]


def _line(one: Question, answer: str) -> dict[str, Any]:
    return {"id": one.id, "answer": answer, **one.about, "asked": one.mark}


def _choice(one: Question, scored: Sequence[Score]) -> dict[str, Any]:
    """The likeliest choice; of several as likely, the first."""
    best, by_token = max(scored, key=lambda own: own.log_likelihood), max(scored, key=lambda own: own.per_token)
    choices = [{"text": own.text, **_numbers(own)} for own in scored]
    return {**_line(one, best.text), "answer_per_token": by_token.text, "choices": choices}


def _numbers(own: Score) -> dict[str, Any]:
    return {"log_likelihood": own.log_likelihood, "per_token": own.per_token, "tokens": own.tokens}
