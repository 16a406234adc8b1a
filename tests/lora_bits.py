"""Adapters tried one by one on a language model in 4 and 8 bits: ``python -m tests.lora_bits [NAME ...]``.

Without names it tries all of :mod:`tests.lora_methods`. It writes their rows of the second table in docs/lora.md. Each
is trained on one process, loaded again under another seed, merged, cut off and resumed. Before that it is put on the
model alone: one that starts as its base in 16 bits has to in few bits too, or it computes with other weights.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

import pvit_ext
from pvit_ext.adapters import refusals
from pvit_ext.adapters.lora import add_lora
from pvit_ext.adapters.options import AdapterChoice
from tests.adapters.models import arguments
from tests.lora_methods import FIELDS, METHODS, TUNERS_TRIED, Trial, Tried, tiny_world
from tests.lora_page import replace_between, rows_between

START, END = "<!-- tests.lora_bits -->\n", "<!-- end of bits -->\n"
TRIALS = {trial.name: trial for trial in (*METHODS, *FIELDS, *TUNERS_TRIED)}
BITS = (4, 8)
WELL = ("equal", "bit-equal")
"""How reloading and resuming are to end."""
START_OFF, MERGE_OFF = 1e-2, 0.5
"""How much further a start may be off its base than in 16 bits, and a merge off its model: of logits up to 3."""


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
    further = start(trial, bits, world) - start(trial, 16, world)
    return f"{', '.join(problems(found, further)) or 'goes'}; loss {found[1]}, merge {found[3]}"


def start(trial: Trial, bits: int, world: dict[str, Path]) -> float:
    """How far an adapter moves logits from those of its base before any step."""
    few = {} if bits == 16 else {f"load_{bits}bit": True}
    model = pvit_ext.load_pretrained_model(str(world["wide"]), device="cpu", **few)[1].eval()
    ids = torch.tensor([[1, 9, 12, 10, 30]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        torch.manual_seed(0)
        return float((add_lora(model, arguments(**trial.given())).eval()(input_ids=ids).logits - before).abs().max())


def problems(found: list[str], further: float) -> list[str]:
    """What did not go.

    Args:
        found: cells behind the name, of :meth:`~tests.lora_methods.Tried.row`.
        further: how much further from its base than in 16 bits the adapter starts.
    """
    trained, _, reloads, merge, resumes = found
    said = [trained.partition(" ")[2]] if "NOTHING" in trained else []
    said += [f"starts {further:.0e} off its base"] * (further > START_OFF)
    said += [f"reloads {reloads}"] * (reloads != WELL[0]) + [f"resumes {resumes}"] * (resumes != WELL[1])
    far = merge != WELL[0] and not (merge.endswith(" off") and float(merge.split()[0]) <= MERGE_OFF)
    return [*said, *[f"merge {merge}"] * far]


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
