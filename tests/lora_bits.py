"""Adapters tried one by one on a language model in 4 and 8 bits: ``python -m tests.lora_bits [NAME ...]``.

Without names it tries all of :mod:`tests.lora_methods`. It writes their rows of the second table in docs/lora.md. Each
is trained on one process, loaded again under another seed, merged, cut off and resumed.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pvit_ext.adapters import refusals
from pvit_ext.adapters.options import AdapterChoice
from tests.lora_methods import FIELDS, METHODS, TUNERS_TRIED, Trial, Tried, tiny_world
from tests.lora_page import replace_between, rows_between

START, END = "<!-- tests.lora_bits -->\n", "<!-- end of bits -->\n"
TRIALS = {trial.name: trial for trial in (*METHODS, *FIELDS, *TUNERS_TRIED)}
BITS = (4, 8)
WELL = ("equal", "bit-equal")
"""How reloading and resuming are to end."""


def refusal(trial: Trial, bits: int) -> str | None:
    """Why an adapter is refused with few bits; None where it is not."""
    config = AdapterChoice(trial.method or "lora", trial.options).config()
    try:
        refusals.check(config, bits=bits)
    except ValueError as error:
        return str(error).partition(": ")[2]
    return None


def cell(trial: Trial, bits: int, world: dict[str, Path]) -> str:
    """What came of a trial."""
    if (reason := refusal(trial, bits)) is not None:
        return f"refused: {reason}"
    few = replace(trial, name=f"{trial.name} in {bits} bits", flags={**trial.flags, "bits": bits})
    found = Tried(few, world).row()[1:]
    if len(found) < 5:
        return found[0]
    trained, losses, reloads, merge, resumes = found
    problems = [trained.partition(" ")[2]] if "NOTHING" in trained else []
    problems += [f"reloads {reloads}"] * (reloads != WELL[0]) + [f"resumes {resumes}"] * (resumes != WELL[1])
    return f"{', '.join(problems) or 'goes'}; loss {losses}, merge {merge}"


def main(names: list[str]) -> None:
    """Try the adapters that are named, else all, and write their rows of the table."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="lora-") as folder:  # LLaVA takes any path with "mpt" in it for an MPT
        world = tiny_world(Path(folder))
        for name in names or TRIALS:
            rows[name] = [name, *(cell(TRIALS[name], bits, world) for bits in BITS)]
            print(" | ".join(rows[name]), flush=True)
    write(rows, whole=not names)


def write(rows: dict[str, list[str]], whole: bool) -> None:
    """The table in docs/lora.md, between two marks: rows of these names alone are replaced, if not all are new."""
    rows = ({} if whole else rows_between(START, END, TRIALS)) | rows
    versions = ", ".join(f"{name} {version(name)}" for name in ("peft", "torch", "transformers", "bitsandbytes"))
    lines = [f"`python -m tests.lora_bits` wrote this: {versions}, on one process on CPU.", ""]
    lines += ["| adapter | 4 bits | 8 bits |", "|---|---|---|"]
    lines += [f"| {' | '.join(rows[name])} |" for name in TRIALS if name in rows]
    replace_between(START, END, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
