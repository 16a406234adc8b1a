"""The arms: all start from one checkpoint, and see the same conversations once, in as many steps."""

from __future__ import annotations

from dataclasses import dataclass

from examples.lion.tags import QUALITIES
from examples.lion.tasks import IMAGE, REGION, TASKS
from examples.quickstart.arms import Flags

SHARED = "shared"
MIXED = "mixed"
"""Conversations of both tasks, in random order."""


@dataclass(frozen=True)
class Stage:
    """A run of ``pvit_ext.train``.

    Args:
        flag: its ``--stage``.
        data: ``image``, ``region`` or ``mixed``.
        part: of an arm's steps.
    """

    flag: str
    data: str
    part: float


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        title: in the tables.
        routed: an adapter for each task; else one of twice the width for both.
        in_stages: first image-level, then region-level, then both; else both at once.
        aggregator: whether it has one.
        tags: style of the sentence that shows tags; None for no tags.
        trains: else it is the start of all others, asked as it is.
    """

    title: str
    routed: bool = True
    in_stages: bool = False
    aggregator: bool = False
    tags: str | None = None
    trains: bool = True

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The runs, in order. ``align`` trains all parts of LION and the region projector, and nothing else."""
        if not self.trains:
            return ()
        if not self.in_stages:
            return (Stage("align", MIXED, 1.0),)
        image, region = (f"lion_{task}" if self.routed else f"lion_{SHARED}" for task in TASKS)
        third = 1 / 3
        return Stage(image, IMAGE, third), Stage(region, REGION, third), Stage("lion_mixed", MIXED, third)

    @property
    def task(self) -> str | None:
        """The task that every record and query names; None where each has its own."""
        return None if self.routed else SHARED

    @property
    def qualities(self) -> tuple[str, ...]:
        """Qualities of the tags with which it is asked."""
        return QUALITIES if self.tags else QUALITIES[:1]

    def flags(self, width: int) -> Flags:
        """Flags of a run that adds its parts of LION to a checkpoint.

        Args:
            width: of an adapter where two are routed; the one that is shared has twice as much.
        """
        flags: Flags = {"region_lion_adapters": width * (1 if self.routed else len(TASKS))}
        if not self.routed:
            flags["region_lion_tasks"] = SHARED
        if self.aggregator:
            flags["region_lion_aggregator"] = "added"
        if self.tags:
            flags["region_lion_tags"] = self.tags
        return flags


@dataclass(frozen=True)
class Claim:
    """A direction of the paper: one arm is better than another.

    Args:
        text: of it.
        better: arm, and quality of tags.
        worse: likewise.
        tasks: whose scores it is about.
        no_difference: the claim is that neither is better.
    """

    text: str
    better: tuple[str, str]
    worse: tuple[str, str]
    tasks: tuple[str, ...] = TASKS
    no_difference: bool = False


ARMS = {
    "start": Arm("where all others start", trains=False),
    "shared_mixed": Arm("one shared adapter, mixed training", routed=False),
    "shared_stages": Arm("one shared adapter, in stages", routed=False, in_stages=True),
    "routed_mixed": Arm("two routed adapters, mixed training"),
    "routed_stages": Arm("two routed adapters, in stages", in_stages=True),
    "aggregator": Arm("two routed adapters, in stages, aggregator", in_stages=True, aggregator=True),
    "plain_tags": Arm("two routed adapters, mixed training, plain tags", tags="plain"),
    "hinted_tags": Arm("two routed adapters, mixed training, hinted tags", tags="hint"),
}
NONE, TRUE, REAL, WRONG = QUALITIES


CLAIMS = (
    Claim("two routed adapters beat a shared one, mixed", ("routed_mixed", NONE), ("shared_mixed", NONE)),
    Claim("two routed adapters beat a shared one, in stages", ("routed_stages", NONE), ("shared_stages", NONE)),
    Claim("stages beat mixed training, shared adapter", ("shared_stages", NONE), ("shared_mixed", NONE)),
    Claim("stages beat mixed training, routed adapters", ("routed_stages", NONE), ("routed_mixed", NONE)),
    Claim("the aggregator raises region-level scores", ("aggregator", NONE), ("routed_stages", NONE), (REGION,)),
    Claim("the aggregator moves no image-level score", ("aggregator", NONE), ("routed_stages", NONE), (IMAGE,), True),
    Claim("true tags help image-level scores, plain", ("plain_tags", TRUE), ("routed_mixed", NONE), (IMAGE,)),
    Claim("true tags help image-level scores, hinted", ("hinted_tags", TRUE), ("routed_mixed", NONE), (IMAGE,)),
    Claim("a real tagger's help image-level scores, plain", ("plain_tags", REAL), ("routed_mixed", NONE), (IMAGE,)),
    Claim("a real tagger's help image-level scores, hinted", ("hinted_tags", REAL), ("routed_mixed", NONE), (IMAGE,)),
    Claim("the hint beats plain tags, a real tagger's", ("hinted_tags", REAL), ("plain_tags", REAL), (IMAGE,)),
    Claim("wrong tags mislead less with the hint", ("hinted_tags", WRONG), ("plain_tags", WRONG), (IMAGE,)),
)
