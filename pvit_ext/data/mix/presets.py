"""The mixtures of PVIT's paper: what they are made of, how much of each, and from where.

Numbers are those of the released data (huggingface.co/datasets/PVIT/pvit_data_stage1 and pvit_data_stage2, CC BY-NC
4.0), whose files are sources as they are: JSON arrays with regions in the text, images relative to a folder each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pvit_ext.data.mix.config import Mix, MixSource, parse_source


@dataclass(frozen=True)
class Part:
    """One source of a preset.

    Args:
        name: of the released file, without ``.json``.
        records: in the released file, and at most of another source; None for all that there are.
        about: what it holds.
        or_by: a command that makes the like of it.
    """

    name: str
    records: int | None
    about: str
    or_by: str


@dataclass(frozen=True)
class Preset:
    """A mixture of the paper.

    Args:
        data: the released data set's name.
        about: what it trains.
        parts: its sources.
    """

    data: str
    about: str
    parts: tuple[Part, ...]


_GENERATE = "pvit-ext data generate RECORDS --strategy "
PRESETS = {
    "pvit-stage1": Preset(
        "PVIT/pvit_data_stage1",
        "aligns the region projector: the name or a phrase of each region",
        (
            Part(
                "coco_grounded_object_identification",
                None,
                "names of COCO's objects",
                "pvit-ext data convert coco instances_train2017.json --task identification",
            ),
            Part(
                "region_descriptions",
                None,
                "phrases of Visual Genome's regions",
                "pvit-ext data convert visual_genome FOLDER --set parts=regions --task description",
            ),
            Part("sbu_grounding", 2_125_465, "phrases of SBU's captions, grounded by a detector", ""),
            Part(
                "vg_grounded_object_identification",
                3_676_467,
                "names of Visual Genome's objects",
                "pvit-ext data convert visual_genome FOLDER --set parts=objects --task identification",
            ),
        ),
    ),
    "pvit-stage2": Preset(
        "PVIT/pvit_data_stage2",
        "tunes projector and language model: 243,446 dialogues about regions",
        (
            Part("small_objects", 4_580, "single questions about small objects", _GENERATE + "small_objects"),
            Part("object_relationship", 6_944, "single questions about relations", _GENERATE + "relationship"),
            Part("ocr", 6_370, "single questions about text in the image", _GENERATE + "ocr"),
            Part("object_attribute", 5_610, "single questions about attributes", _GENERATE + "attribute"),
            Part("multi_objects", 4_364, "which of several of one category", _GENERATE + "same_category"),
            Part("general", 22_225, "several questions about an image", _GENERATE + "general"),
            Part(
                "gqa_train_sampled_chat_multiturn",
                10_375,
                "GQA's questions as turns",
                "pvit-ext data convert gqa train_balanced_questions.json --task given",
            ),
            Part(
                "vcr_chat_multiturn",
                116_491,
                "VCR's questions, answers and reasons as turns",
                "pvit-ext data convert vcr train.jsonl --task given",
            ),
            Part("vg_v1_0625_66k_filtered", 66_487, "talks about Visual Genome's regions", _GENERATE + "multi_turn"),
        ),
    ),
}


def mix_of_preset(
    name: str,
    files: Mapping[str, Sequence[Path]],
    images: Mapping[str, str],
    without: Sequence[str] = (),
    seed: int = 0,
) -> Mix:
    """A mixture of the paper from files of yours.

    Args:
        name: of the preset.
        files: by source; several are read as one.
        images: by source, what is put before the images' names.
        without: sources to do without.
        seed: chooses which records are taken.

    Raises:
        ValueError: for an unknown preset or source, and for sources that are missing, with where to get them.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    known = [part.name for part in preset.parts]
    if unknown := [one for one in (*files, *images, *without) if one not in known]:
        raise ValueError(f"{name} has no source {unknown[0]!r}; it has {', '.join(known)}")
    for flag, given in (("--source", files), ("--images", images)):
        if both := [one for one in given if one in without]:
            raise ValueError(f"source {both[0]!r} is given by {flag} and left out by --without; drop one of them")
    if missing := [part for part in preset.parts if part.name not in files and part.name not in without]:
        lines = "\n".join(f"  {_advice(part, preset)}" for part in missing)
        raise ValueError(f"{name} lacks {len(missing)} of its sources; give --source NAME=FILE for each:\n{lines}")
    sources = [
        _source(part, files[part.name], images.get(part.name, "")) for part in preset.parts if part.name in files
    ]
    if not sources:
        raise ValueError(f"{name} without {', '.join(without)} has no source")
    return Mix(name, tuple(sources), seed)


def _source(part: Part, files: Sequence[Path], images: str) -> MixSource:
    found = parse_source(part.name, {"files": [str(file) for file in files], "images": images}, Path())
    return replace(found, at_most=part.records)


def _advice(part: Part, preset: Preset) -> str:
    made = f", or the like of it by `{part.or_by}`" if part.or_by else ""
    return (
        f"{part.name} ({part.about}): {part.name}.json of huggingface.co/datasets/{preset.data}{made}; "
        f"or --without {part.name}"
    )


def describe_presets() -> str:
    """All presets with their sources, for the terminal."""
    lines = []
    for name, preset in PRESETS.items():
        lines.append(f"{name}: {preset.about}")
        for part in preset.parts:
            amount = "all" if part.records is None else f"{part.records:,}"
            lines.append(f"  {part.name:<36} {amount:>10}  {part.about}")
    return "\n".join(lines)
