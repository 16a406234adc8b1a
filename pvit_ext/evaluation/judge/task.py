"""The contract of a task whose answers another model judges.

Beside what every task has (:mod:`pvit_ext.evaluation.task`), it says what the judge is asked about an answer, each
question with how its reply is read, and what the readings are worth together::

    class Politeness(JudgedTask):
        def load(self): ...
        def judge_questions(self, sample, answer): ...   # JudgeQuestion, one a call
        def verdict(self, sample, readings): ...         # Judged, or None where too many readings are missing
        def score(self, results): ...

A reply that cannot be read is never worth anything by itself: it is asked for once more, then left out and counted;
with ``--set unreadable=script`` it is worth what the benchmark's own script makes of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.evaluation.sample import Judged, Sample
from pvit_ext.evaluation.task import TASKS, Task, TaskOptions

if TYPE_CHECKING:
    from pvit_ext.data.generate.request import ImagePart

LEAVE_OUT, SCRIPT = "leave-out", "script"
UNREADABLE = Setting(
    LEAVE_OUT,
    "a judge's reply that cannot be read: asked for once more, then left out; or scored as the benchmark's script does",
    (LEAVE_OUT, SCRIPT),
)


@dataclass(frozen=True)
class JudgeQuestion:
    """One call of the judge.

    Args:
        content: gives the texts and images of the message, in order, for images of so many pixels on the longer side;
            not called for stored replies.
        read: what a reply says; raises :class:`~pvit_ext.data.generate.reply.BadReply` where it says nothing.
        by_script: what the benchmark's script makes of a reply that cannot be read.
        system: prompt, None for none.
    """

    content: Callable[[int], Sequence[str | ImagePart]]
    read: Callable[[str], Any]
    by_script: Any
    system: str | None = None


@dataclass(frozen=True)
class StoredReplies:
    """A judge's replies to the questions about one answer, from a file of the benchmark.

    Args:
        replies: in the order of :meth:`JudgedTask.judge_questions`.
        answer: that they are about, as the judge was shown it; None where the file does not say.
    """

    replies: Sequence[str]
    answer: str | None = None


class JudgedTask(Task):
    """A benchmark whose score is a judge's.

    Attributes:
        judge_needed: there is no score without a judge.
        judge_tokens: longest reply.
        prompt_source: where the judge's prompt comes from, for the result.
        readings: of the judge's replies by sample id, None for each that there is not; set before :meth:`parse`.
    """

    scoring: ClassVar[tuple[str, ...]] = ("unreadable", "judge_prompt", "judge_sees")
    judge_needed: ClassVar[bool] = True
    judge_tokens: ClassVar[int] = 1000
    prompt_source: str = "ours"

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        self.readings: Mapping[str, Sequence[Any]] = {}

    @property
    def by_script(self) -> bool:
        """A reply that cannot be read is worth what the benchmark's script makes of it."""
        return self.chosen.get("unreadable") == SCRIPT

    @abstractmethod
    def judge_questions(self, sample: Sample, answer: str) -> Sequence[JudgeQuestion]:
        """What the judge is asked about an answer; each is a call."""

    def shown_to_judge(self, sample: Sample, answer: str) -> str:
        """An answer as the judge sees it."""
        return answer

    @abstractmethod
    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """What the readings of the replies are worth; None where too many are missing for a score."""

    def stored_replies(self, path: Path) -> Mapping[str, StoredReplies]:
        """A judge's replies in the benchmark's own file, by sample id.

        Raises:
            ValueError: where the benchmark has no such file, or naming what it lacks.
        """
        raise ValueError(f"{path}: this benchmark has no file of a judge's replies: give --judge-endpoint")

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The verdict on an answer; of samples with one."""
        judged = self.verdict(sample, self.readings[sample.id])
        assert judged is not None, f"{sample.id} has no verdict"
        return judged


def check_judge(name: str, judged: bool) -> None:
    """Refuse a judge that a task has no use for, and a task without the judge that it needs.

    Args:
        name: of a registered task.
        judged: whether there is a judge.

    Raises:
        ValueError: saying which flag to give or to leave out.
    """
    kind = TASKS.require(name)
    if judged and not issubclass(kind, JudgedTask):
        raise ValueError(f"{name} is scored without a judge: leave --judge-model out")
    if not judged and issubclass(kind, JudgedTask) and kind.judge_needed:
        raise ValueError(
            f"the answers of {name} are judged by another model: give --judge-model NAME, with --judge-endpoint URL "
            "where it is not OpenAI's, or with --judge-replies FILE of stored replies"
        )
