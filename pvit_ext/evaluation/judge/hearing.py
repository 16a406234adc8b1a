"""What a judge says of all answers: asked at an endpoint, or read from stored replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.data.generate.reply import BadReply
from pvit_ext.evaluation.judge.task import JudgedTask, JudgeQuestion
from pvit_ext.evaluation.sample import Prediction, Result, Sample

if TYPE_CHECKING:
    from pvit_ext.evaluation.calls import EndpointOptions

LEDGER = "judge.jsonl"


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Args:
        name: of the judge, for every score.
        endpoint: where it is asked; None for stored replies.
        replies: file of its stored replies.
    """

    name: str
    endpoint: EndpointOptions | None = None
    replies: Path | None = None


@dataclass
class Hearing:
    """What was heard.

    Args:
        readings: of the replies by sample id, None for each question without one.
        failures: (sample id, number of the question) -> why its reply could not be read.
    """

    readings: dict[str, list[Any]]
    failures: dict[tuple[str, int], str]

    def reasons(self) -> dict[str, int]:
        """How often each failure occurred, the commonest first."""
        return dict(Counter(self.failures.values()).most_common())


def judged_results(
    task: JudgedTask, samples: Sequence[Sample], found: Mapping[str, Prediction], options: JudgeOptions, out: Path
) -> tuple[list[Result], dict[str, Any]]:
    """The results that have a verdict, and what is to be said about the judge.

    Args:
        task: whose answers they are.
        samples: that were asked.
        found: the answers by sample id.
        options: of the judge.
        out: folder of the judge's ledger.

    Raises:
        ValueError: where replies are missing, or no sample has a verdict.
    """
    questions = {one.id: task.judge_questions(one, found[one.id].answer) for one in samples}
    if options.replies is not None:
        hearing = _stored(task, samples, found, questions, options.replies)
    else:
        assert options.endpoint is not None
        hearing = _asked(task, questions, options.endpoint, out)
    task.readings = hearing.readings
    with_verdict = [one for one in samples if task.verdict(one, hearing.readings[one.id]) is not None]
    if not with_verdict:
        raise ValueError(
            f"{options.name} gave no verdict on any of {len(samples)} answers: {next(iter(hearing.reasons()), '')}"
        )
    about = {
        "name": options.name,
        "prompt": task.prompt_source,
        "replies": f"stored in {options.replies}" if options.replies else f"in {out / LEDGER}",
        "questions": sum(map(len, questions.values())),
        "without a readable reply": len(hearing.failures),
        "why": hearing.reasons(),
        "scored by the script's rule": task.by_script,
        "samples without a verdict": len(samples) - len(with_verdict),
    }
    results = [Result(one, found[one.id], task.parse(one, found[one.id].answer)) for one in with_verdict]
    return results, about


def _asked(
    task: JudgedTask, questions: Mapping[str, Sequence[JudgeQuestion]], options: EndpointOptions, out: Path
) -> Hearing:
    from pvit_ext.evaluation.calls import make_calls
    from pvit_ext.evaluation.judge.asking import Asking, Job

    plan = Asking(options, again=not task.by_script)
    make_calls(plan, [Job(id, some) for id, some in questions.items()], options, out / LEDGER, "judging")
    return Hearing(plan.readings, plan.failures)


def _stored(
    task: JudgedTask,
    samples: Sequence[Sample],
    found: Mapping[str, Prediction],
    questions: Mapping[str, Sequence[JudgeQuestion]],
    path: Path,
) -> Hearing:
    stored = task.stored_replies(path)
    hearing = Hearing({}, {})
    for sample in samples:
        if (one := stored.get(sample.id)) is None:
            raise ValueError(f"{path} has no judge's reply to {sample.name}: give the replies to this data, or --limit")
        if (
            one.answer is not None
            and one.answer.strip() != task.shown_to_judge(sample, found[sample.id].answer).strip()
        ):
            raise ValueError(
                f"{path} judges another answer to {sample.name}, {one.answer[:60]!r}: give the replies to these"
            )
        asked = questions[sample.id]
        if len(one.replies) != len(asked):
            raise ValueError(f"{path} has {len(one.replies)} replies to {sample.name}, which takes {len(asked)}")
        hearing.readings[sample.id] = [
            _read(question, reply, (sample.id, number), hearing, task.by_script)
            for number, (question, reply) in enumerate(zip(asked, one.replies, strict=True))
        ]
    return hearing


def _read(question: JudgeQuestion, reply: str, location: tuple[str, int], hearing: Hearing, by_script: bool) -> Any:
    try:
        return question.read(reply)
    except BadReply as error:
        hearing.failures[location] = str(error)
        return question.by_script if by_script else None
