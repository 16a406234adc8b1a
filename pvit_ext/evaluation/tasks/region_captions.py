"""Captions of regions, on RefCOCOg and Visual Genome: METEOR and CIDEr by pycocoevalcap, which runs Java."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.evaluation.caption_files import GRIT, PIXELREFER, captioned_regions, kind_of
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions

_GLAMM, _OSPREY = "GLaMM's paper", "Osprey's paper"
LONGEST = 100
"""Words of a caption that count in PixelRefer's test."""
_REFCOCOG = (
    ("GRiT", 0.152, 0.716, _GLAMM),
    ("Kosmos-2", 0.141, 0.623, _GLAMM),
    ("GLaMM", 0.162, 1.060, _GLAMM),
    ("Osprey", 0.166, 1.083, _OSPREY),
    ("RegionGPT", 0.169, 1.099, "RegionGPT's paper"),
)
_GRIT = (
    ("GRiT", 0.171, 1.420, _GLAMM),
    ("GPT4RoI", 0.174, 1.452, _GLAMM),
    ("GLaMM", 0.197, 1.805, _GLAMM),
)


class RegionCaptions(Task):
    """METEOR and CIDEr of the set."""

    about = "captions of regions: METEOR and CIDEr (a converted file, test_caption.json, vg_val_5000.json); runs Java"
    settings: ClassVar[dict[str, Setting]] = {
        "question": Setting("Describe <region> in a short phrase.", "with <region>"),
        "references": Setting(
            "region", "one sample a region with all its captions, or one a sentence", ("region", "sentence")
        ),
    }
    max_new_tokens = 64

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        check_installed()
        if self.chosen["question"].count("<region>") != 1:
            raise ValueError(f"--set question={self.chosen['question']!r} has to hold <region>, once")
        self.kind = kind_of(options.data)
        theirs = _GRIT if self.kind == GRIT else _REFCOCOG if "refcocog" in options.data.name.lower() else ()
        self.published = [
            Published(system, metric, value, source)
            for system, meteor, cider, source in theirs
            for metric, value in (("METEOR", meteor), ("CIDEr", cider))
        ]

    def load(self) -> Iterator[Sample]:
        """A sample for each region, or each sentence; see :class:`~pvit_ext.evaluation.task.Task`."""
        for found in captioned_regions(self.options.data, self.options.image_folder, self.leave_out):
            captions = list(found.captions)
            if not captions:
                self.leave_out("an object without a caption")
                continue
            groups = [captions] if self.chosen["references"] == "region" else [[one] for one in captions]
            for number, group in enumerate(groups):
                yield Sample(
                    id=f"{found.id}.{number}",
                    images=found.images,
                    question=self.chosen["question"],
                    reference=" / ".join(group),
                    specs=(found.spec,),
                    folder=found.folder,
                    location=found.location,
                    extra={"captions": group},
                )

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The caption; only the set of all gives it a score."""
        return Judged(" ".join(answer.split()[: LONGEST if self.kind == PIXELREFER else None]), 0.0)

    def score(self, results: Sequence[Result]) -> Score:
        """Both measures of the set; the METEOR of each caption is its score."""
        captions = {number: [str(one.judged.said)] for number, one in enumerate(results)}
        references = {number: list(one.sample.extra["captions"]) for number, one in enumerate(results)}
        meteor, cider, each = caption_scores(captions, references)
        arrangement = "region, with all its captions" if self.chosen["references"] == "region" else "sentence"
        notes = [
            f"The set is {self.kind}.",
            f"pycocoevalcap: METEOR 1.5 of the set, which is not the mean of its captions', and CIDEr-D; one sample a "
            f"{arrangement}. CIDEr weighs words by the references of just these {len(results)} samples. The question "
            "is ours; by size and in the cases, the METEOR of each caption.",
        ]
        return Score("METEOR", {"METEOR": meteor, "CIDEr": cider}, notes=notes, each=each)


def check_installed() -> None:
    """Raise ValueError where pycocoevalcap or Java is missing, before anything is asked."""
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise ValueError(f'captions take the package pycocoevalcap ({error}): pip install "pvit-ext[eval]"') from error
    if shutil.which("java") is None:
        raise ValueError("METEOR and its tokenizer run Java, and there is no `java` here: install OpenJDK 17")


def caption_scores(
    captions: dict[int, list[str]], references: dict[int, list[str]]
) -> tuple[float, float, list[float]]:
    """METEOR and CIDEr of a set, and the METEOR of each of its captions.

    Args:
        captions: one by number.
        references: one or more by the same numbers.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    texts = [{key: [{"caption": one} for one in group] for key, group in one.items()} for one in (references, captions)]
    true, said = (tokenizer.tokenize(one) for one in texts)
    meteor, each = Meteor().compute_score(true, said)
    cider, _ = Cider().compute_score(true, said)
    return float(meteor), float(cider), [float(value) for value in each]
