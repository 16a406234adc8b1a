"""What training starts from, where MODEL is no whole checkpoint: region modules, or a LoRA result."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

from transformers import PretrainedConfig

from pvit_ext.adapters.lora import check_adapter_files
from pvit_ext.config import CONFIG_KEY
from pvit_ext.files import absolute
from pvit_ext.hosts.checkpoint_kind import LORA, MERGED, CheckpointKind, find_kind, results_in
from pvit_ext.hosts.trained_on import holds_same_weights
from pvit_ext.tokens.serialization import CONFIG_FILE, read_region_config
from pvit_ext.training.output import check_output
from pvit_ext.training.stages import FINETUNE

_MODEL, _MODULES, _OUTPUT = "model_name_or_path", "region_modules", "output_dir"
_STORED = ("vision_tower", "region_weights", _MODULES)  # checkpoints name them, and are loaded from other folders
_YES = ("yes", "true", "t", "y", "1")
"""Words that transformers' parser takes for True."""
_POLL = 0.5  # seconds


def resolve_model(arguments: list[str]) -> list[str]:
    """The command line with a MODEL that is a whole checkpoint, and with names that mean the same everywhere.

    Region modules become their base and ``--region_modules``. A LoRA result is merged into its base, and written to
    ``merged-model`` in ``--output_dir``: what this run saves is based on that folder, and loads without the first.

    Args:
        arguments: flags and values as separate words.

    Raises:
        FileNotFoundError: when a folder is missing, or MODEL holds only LLaVA's mm_projector.
        ValueError: when MODEL contradicts other flags, or a merge would lie beside a result of another kind.
    """
    for name in _STORED:
        if value := flag_value(arguments, name):
            arguments = [*arguments, f"--{name}", absolute(value)]
    model, modules = flag_value(arguments, _MODEL), flag_value(arguments, _MODULES)
    if model is None:
        return arguments
    kind = find_kind(model)
    if modules and modules != absolute(model):
        _check_modules(kind, modules)
    return [*arguments, *_flags_of(kind, arguments)]


def _flags_of(kind: CheckpointKind, arguments: list[str]) -> list[str]:
    """The flags that name what lies under a folder, and its region modules, in a run of these arguments."""
    if kind.base is None:
        return [f"--{_MODEL}", absolute(kind.path)]
    if kind.adapter:
        return [f"--{_MODEL}", _merged(kind, arguments)]
    say(f"{kind}: training starts from both")
    return [*_flags_of(find_kind(kind.base), arguments), f"--{_MODULES}", absolute(kind.path)]


def _check_modules(kind: CheckpointKind, modules: str) -> None:
    """Refuse ``--region_modules`` that are none, or would leave out an adapter or MODEL's own; say what they replace.

    Raises:
        FileNotFoundError, ValueError: with what to give.
    """
    written = Path(modules, CONFIG_FILE).is_file()
    if written and (check_adapter_files(Path(modules)) or LORA in results_in(Path(modules))):
        raise ValueError(
            f"--{_MODULES} {modules} holds a LoRA adapter too, which would be left out: name it as --{_MODEL}, "
            f"without --{_MODULES}"
        )
    if kind.regions:
        raise ValueError(
            f"--{_MODEL} {kind.path} holds region modules, and --{_MODULES} names others: drop one of them "
            f'(--{_MODULES} "" takes away what a recipe names)'
        )
    if not written:
        raise FileNotFoundError(
            f"--{_MODULES} {modules} has no {CONFIG_FILE}: give the output of the stage before (STAGE1 and STAGE2 "
            'name it to the recipes), or "" for none'
        )
    if kind.base is None and CONFIG_KEY in PretrainedConfig.get_config_dict(kind.path)[0]:
        say(f"{modules}: its region modules replace those of {kind.path}")
    _say_other_base(kind, modules)


def _say_other_base(kind: CheckpointKind, modules: str) -> None:
    """Say that region modules were trained on another model than they go on; it may be the same one, converted."""
    trained_on = read_region_config(modules).base
    if trained_on is None or not _speaks() or (same := _is_same_model(kind, trained_on)):
        return
    doubt = ": right only if both hold the same weights" if same is None else ", whose weights are others"
    say(f"{modules}: region modules trained on {trained_on}, MODEL is {kind.path}{doubt}")


def _is_same_model(kind: CheckpointKind, trained_on: str) -> bool | None:
    """Whether a MODEL is what region modules were trained on; None where files do not tell."""
    from pvit_ext.tools.merge import MERGED_FROM, is_merge_of

    if kind.adapter and Path(trained_on, MERGED_FROM).is_file():  # each run merges it into its own output
        return is_merge_of(Path(trained_on), kind)
    return holds_same_weights(kind.path, trained_on)


def _merged(kind: CheckpointKind, arguments: list[str]) -> str:
    from pvit_ext.tools.merge import is_merge_of, merge_checkpoint

    output = flag_value(arguments, _OUTPUT)
    if output is None:
        raise ValueError(f"{kind}: give --{_OUTPUT}, where it is merged before training starts")
    # before the parser reads the flags: it needs the merge, which takes minutes and the disk of a model
    check_output(output, flag_value(arguments, "stage") or FINETUNE, _is_true(arguments, "lora_enable"))
    folder = Path(output, MERGED).absolute()
    if not folder.is_dir() and _speaks():
        say(f"{kind}: training starts from both, merged into {folder}")
        merge_checkpoint(kind.path, str(folder), kind.base)
    while not folder.is_dir():  # the first rank's; a launcher ends the others where it fails
        time.sleep(_POLL)
    if not is_merge_of(folder, kind):
        raise ValueError(f"{folder} was merged from something else than {kind}: name another --{_OUTPUT}")
    return str(folder)


def flag_value(arguments: list[str], name: str) -> str | None:
    """The value of a flag given as ``--a_b`` or ``--a-b``; the last one counts."""
    spellings = (f"--{name}", f"--{name.replace('_', '-')}")
    found = [value for flag, value in pairwise(arguments) if flag in spellings]
    return found[-1] or None if found else None


def _is_true(arguments: list[str], name: str) -> bool:
    """Whether a flag of True or False, which needs no value for True, is True."""
    value = flag_value([*arguments, "--"], name) or ""
    return value.startswith("--") or value.lower() in _YES


def say(text: str) -> None:
    """Print a line once for all processes, before they know each other."""
    if _speaks():
        print(text, flush=True)


def _speaks() -> bool:
    """Whether this is the process that says what all know."""
    return int(os.environ.get("RANK", "0")) == 0
