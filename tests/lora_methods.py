"""Adapters tried one by one on a tiny LLaVA with regions: ``python -m tests.lora_methods [--alone] [NAME ...]``.

Without names it tries all. It writes their rows of the table in docs/lora.md. Each is trained through
``pvit_ext.train`` on one process, loaded again under another seed, merged, cut off and resumed, and trained, cut off
and resumed on two ranks under ZeRO-2 and ZeRO-3.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pvit_ext
from pvit_ext.adapters.refusals import FIELDS as REFUSED_FIELDS
from pvit_ext.adapters.refusals import INITS, TUNERS
from pvit_ext.tools.merge import merge_checkpoint
from tests.lora_page import replace_between, rows_between
from tests.lora_runs import Outcome, command_line, resumed, train
from tests.samples import write_training_data
from tests.tiny import build_llava

START, END = "<!-- tests.lora_methods -->\n", "<!-- end -->\n"
STEPS = 4
CLOSE = 5e-5  # of logits up to 3


@dataclass(frozen=True)
class Trial:
    """An adapter by its flags; ``options`` is what users write as JSON."""

    name: str
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name, as folders and files have it."""
        return self.name.replace(" ", "-").replace(",", "")

    def given(self) -> dict[str, Any]:
        """Flags of a run."""
        made = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **self.flags}
        made |= {"lora_method": self.method} if self.method else {}
        return made | ({"lora_options": json.dumps(self.options)} if self.options else {})


def _tuner(name: str, **options: Any) -> Trial:
    return Trial(f"peft_type {name}", options={"peft_type": name, **options})


def _field(name: str, **options: Any) -> Trial:
    return Trial(name, options=options)


_BLOCKS = {"nblocks": 2, "match_strict": False, "target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"]}
METHODS = [
    Trial("lora", "lora"),
    Trial("rslora", "rslora"),
    Trial("dora", "dora"),
    Trial("pissa", "pissa"),
    Trial("olora", "olora"),
    Trial("lora+", flags={"loraplus_lr_ratio": 4, "mm_projector_lr": 1e-3}),
]
FIELDS = [
    Trial("dora and rslora and pissa", "dora", {"use_rslora": True, "init_lora_weights": "pissa"}),
    _field("init_lora_weights gaussian", init_lora_weights="gaussian"),
    _field("init_lora_weights orthogonal", init_lora_weights="orthogonal"),
    _field("init_lora_weights mica", init_lora_weights="mica"),
    _field("target_modules", target_modules=["q_proj", "v_proj"]),
    _field("layers_to_transform", layers_to_transform=[1]),
    _field("rank_pattern, alpha_pattern", rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}),
    _field("trainable_token_indices", trainable_token_indices=[1, 5]),
    _field("velora_config", velora_config={}),
    _field("kasa_config", kasa_config={}),
    _field("use_bdlora", use_bdlora=_BLOCKS),
    _field("target_parameters", target_parameters=["layers.0.mlp.up_proj.weight"]),
    Trial("lora_bias all", flags={"lora_bias": "all"}),
    Trial("lora_bias lora_only", options={"target_modules": ["q_proj"]}, flags={"lora_bias": "lora_only"}),
]
TUNERS_TRIED = [
    _tuner("BOFT", boft_block_size=4),
    _tuner("C3A", block_size=16),
    _tuner("DELORA", r=4),
    _tuner("FOURIERFT", n_frequency=64),
    _tuner("GLORA", r=4),
    _tuner("GRALORA", r=4, gralora_k=2),
    _tuner("HIRA", r=4),
    _tuner("HRA", r=4),
    _tuner("IA3", feedforward_modules=["down_proj"]),
    _tuner("LN_TUNING", target_modules=["input_layernorm", "post_attention_layernorm"]),
    _tuner("LOHA", r=4),
    _tuner("LOKR", r=4),
    _tuner("MISS", r=4),
    _tuner("OFT", oft_block_size=16),
    _tuner("OSF"),
    _tuner("PSOFT", r=4),
    _tuner("RANDLORA", r=4),
    _tuner("SHIRA", r=4),
    _tuner("TINYLORA"),
    _tuner("TRAINABLE_TOKENS", token_indices=[1, 5]),
    _tuner("UNILORA"),
    _tuner("VBLORA", num_vectors=16, vector_length=16),
    _tuner("VERA", r=8),
    _tuner("WAVEFT", n_frequency=64),
    _tuner("ADAMSS"),
    _tuner("DEFT", r=4),
    _tuner("FROD"),
    _tuner("PEANUT", r=4),
    _tuner("PVERA", r=8),
    _tuner("ROAD", group_size=8),
    _tuner("SUPERTUNING"),
]
FEW_BITS = [
    Trial("lora --bits 4", flags={"bits": 4}),
    Trial("dora --bits 4", "dora", flags={"bits": 4}),
    Trial("rslora --bits 8", "rslora", flags={"bits": 8}),
]
_SMALLER = {"loraplus_lr_ratio": 2}  # at 4 its loss rises


def _on_transformers(trial: Trial) -> Trial:
    flags = {key: _SMALLER.get(key, value) for key, value in trial.flags.items()}
    return Trial(f"{trial.name}, transformers host", trial.method, trial.options, {**flags, "host": "transformers"})


ON_TRANSFORMERS = [_on_transformers(trial) for trial in METHODS]
TRIALS = {trial.name: trial for trial in (*METHODS, *ON_TRANSFORMERS, *FIELDS, *TUNERS_TRIED, *FEW_BITS)}


class Tried:
    """One trial, on one process and on two ranks."""

    def __init__(self, trial: Trial, world: dict[str, Path]) -> None:
        self.trial, self.world = trial, world
        self.folder = world["runs"] / trial.slug

    def row(self) -> list[str]:
        """Cells of the table; what fails says so, and the rest is not tried."""
        try:
            outcome = self._train("whole", save_steps=2, save_strategy="steps")
        except Exception as error:
            return [self.trial.name, f"fails: {_short(error)}"]
        cells = [self.trial.name, f"{outcome.trained:,}", f"{outcome.losses[0]:.2f} > {outcome.losses[-1]:.2f}"]
        cells[1] += "" if outcome.moved > 0 else " LEARNS NOTHING"
        for check in (self._reload, self._merge, self._resume):
            try:
                cells.append(check(outcome))
            except Exception as error:
                cells.append(f"fails: {_short(error)}")
        return cells

    def _train(self, name: str, **own: Any) -> Outcome:
        torch.manual_seed(0)
        return train(command_line(self.world, self.folder / name, {**self.trial.given(), **own}))

    def _reload(self, outcome: Outcome) -> str:
        torch.manual_seed(1234)
        model = pvit_ext.load_pretrained_model(str(self.folder / "whole"), device="cpu")[1]
        return _distance(outcome.logits_of(model), outcome.logits)

    def _merge(self, outcome: Outcome) -> str:
        torch.manual_seed(4321)
        merge_checkpoint(str(self.folder / "whole"), str(self.folder / "merged"))
        model = pvit_ext.load_pretrained_model(str(self.folder / "merged"), device="cpu")[1]
        return _distance(outcome.logits_of(model), outcome.logits)

    def _resume(self, outcome: Outcome) -> str:
        torch.manual_seed(0)
        own = {**self.trial.given(), "save_steps": 2, "save_strategy": "steps"}
        return resumed(outcome, self.folder / "whole", command_line(self.world, self.folder / "cut", own))

    def losses(self) -> list[float]:
        """Of the run on one process."""
        found: list[float] = json.loads((self.folder / "whole" / "losses.json").read_text())
        return found

    def on_ranks(self, zero: str, losses: list[float]) -> str:
        """What :mod:`tests.lora_runs` wrote of it on two ranks."""
        file = self.world["runs"] / zero / f"{self.trial.slug}.json"
        if not file.is_file():
            return "not tried"
        found = json.loads(file.read_text())
        if "error" in found:
            return str(found["error"])
        if found["moved"] == 0:
            return "LEARNS NOTHING"
        apart = max(abs(one - other) for one, other in zip(found["losses"], losses, strict=True))
        return f"{'equal' if apart < 5e-3 else f'losses {apart:.0e} off'}, resumes {found['resumes']}"


def _distance(found: torch.Tensor, expected: torch.Tensor) -> str:
    apart = float((found - expected).abs().max())
    return "equal" if apart < CLOSE else f"{apart:.0e} off"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:70].replace("|", "/")


def launch(world: dict[str, Path], zero: str, trials: list[Trial]) -> None:
    """All trials on two ranks under one config of DeepSpeed, in one start of its launcher."""
    listed = {trial.slug: trial.given() for trial in trials}
    (world["runs"] / f"{zero}.list.json").write_text(json.dumps(listed))
    paths = {key: str(value) for key, value in world.items()}
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    clean |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--master_port"]
    command += [str(29500 + os.getpid() % 1000), "--module", "tests.lora_runs", zero, json.dumps(paths)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=3000)
    print(f"{zero}: exit {done.returncode}", *done.stderr.splitlines()[-5:], sep="\n", file=sys.stderr)


def tiny_world(folder: Path) -> dict[str, Path]:
    """Checkpoints of the llava host, their records, and where runs go."""
    wide = {"hidden_size": 64, "intermediate_size": 128}  # as bitsandbytes asks
    biases = {"attention_bias": True, "mlp_bias": True}  # LLaMA's has none
    world = {
        "checkpoint": build_llava(folder / "tiny"),
        "wide": build_llava(folder / "wide", **wide),
        "biased": build_llava(folder / "biased", **biases),
        "wide biased": build_llava(folder / "wide-biased", **wide, **biases),
        "data": write_training_data(folder / "data"),
        "runs": folder / "runs",
    }
    world["runs"].mkdir()
    return world


def stock_world(folder: Path) -> dict[str, Path]:
    """A checkpoint of transformers' own LLaVA, and its records."""
    from tests.training.test_transformers_host import save_stock, write_records

    return {"stock": save_stock("llava", folder / "stock"), "stock data": write_records(folder / "stock data")}


def main(words: list[str]) -> None:
    """Try the adapters that are named, without ranks after ``--alone``, else all, and write their rows of the table."""
    names, alone = [word for word in words if word != "--alone"], "--alone" in words
    trials = [TRIALS[name] for name in names] if names else list(TRIALS.values())
    with tempfile.TemporaryDirectory(prefix="lora-") as folder:  # LLaVA takes any path with "mpt" in it for an MPT
        world = tiny_world(Path(folder))
        if any("host" in trial.flags for trial in trials):
            world |= stock_world(Path(folder))
        tried = {trial.name: Tried(trial, world) for trial in trials}
        rows = {}
        for name, one in tried.items():
            rows[name] = one.row()
            print(" | ".join(rows[name]), flush=True)
        for zero in () if alone else ("zero2", "zero3"):
            launch(world, zero, trials)
        for name, one in tried.items():
            if len(rows[name]) > 2:
                rows[name] += [one.on_ranks(zero, one.losses()) for zero in ("zero2", "zero3")]
            print(" | ".join(rows[name]), flush=True)
    if not alone:
        write(rows, whole=not names)


def write(rows: dict[str, list[str]], whole: bool) -> None:
    """The tables in docs/lora.md, between two marks: rows of these names alone are replaced, if not all are new."""
    kept = {} if whole else rows_between(START, END, TRIALS)
    rows = {name: (kept | rows)[name] for name in TRIALS if name in kept or name in rows}
    versions = ", ".join(f"{name} {version(name)}" for name in ("peft", "torch", "transformers", "deepspeed"))
    head = ["adapter", "trained", f"loss of {STEPS} steps", "reloads, other seed", "`merge`", "resumes"]
    head += ["2 ranks, ZeRO-2", "2 ranks, ZeRO-3"]
    lines = [f"`python -m tests.lora_methods` wrote this: {versions}, on CPU.", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows.values()]
    lines += ["", "Refused by name, when training and when loading:", "", "| adapter | why |", "|---|---|"]
    lines += [f"| `peft_type` {name} | {why} |" for name, why in TUNERS.items()]
    lines += [f"| `init_lora_weights` {name} | {why} |" for name, why in INITS.items()]
    only = {"always": "", "training": " (when training alone)"}
    lines += [f"| {one.name}{only[one.when]} | {one.reason} |" for one in REFUSED_FIELDS]
    replace_between(START, END, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
