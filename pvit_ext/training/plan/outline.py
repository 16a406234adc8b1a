"""A run that has not begun: its flags, parsed as training parses them, and its model without weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pvit_ext.adapters.methods import METHODS
from pvit_ext.adapters.options import LORA, AdapterChoice
from pvit_ext.config import RegionConfig
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.plugins import take_plugins
from pvit_ext.region_flags import options
from pvit_ext.tokens.serialization import CONFIG_FILE, read_region_config
from pvit_ext.training.arguments import ModelFlags, with_config_file
from pvit_ext.training.contract import Arguments, TrainingHost
from pvit_ext.training.host import take_host
from pvit_ext.training.lora_arguments import check_lora
from pvit_ext.training.plan.deepspeed import read_deepspeed
from pvit_ext.training.run import parse_flags
from pvit_ext.training.stages import freeze_for_stage
from pvit_ext.training.start import flag_value

_ELSEWHERE = ("deepspeed", "region_cache", "tf32", "report_to")
"""Flags that ask for something of the machine that trains; what they change in memory is counted without it."""
_MODEL, _MODULES = "model_name_or_path", "region_modules"


@dataclass(frozen=True)
class RunOutline:
    """A run as planned.

    Args:
        host: of its model.
        args: its flags; region modules are named by flags, without files.
        model: on the meta device, with what trains.
        deepspeed: config of DeepSpeed, None without it.
    """

    host: TrainingHost
    args: Arguments
    model: Any
    deepspeed: dict[str, Any] | None


def outline_run(words: Sequence[str]) -> RunOutline:
    """The run of a command line; reads config.json files and no weights.

    Args:
        words: flags as ``python -m pvit_ext.train`` takes them.

    Raises:
        ValueError: for what training would refuse as well, and for flags whose memory is not known.
        OSError: when a config.json cannot be read.
    """
    given = take_plugins(with_config_file(list(words)))
    if not flag_value(given, _MODEL):
        raise ValueError(f"--{_MODEL} is missing: name the folder of the model, or of its config.json")
    deepspeed = read_deepspeed(flag_value(given, "deepspeed"))
    given, adapter = _below_adapters(_without(given, _ELSEWHERE))
    host, rest = take_host(given)
    args = parse_flags(host, rest)
    if getattr(args.training, "fsdp", None):
        raise ValueError("--fsdp: memory is planned for DeepSpeed and for one copy per GPU; use --deepspeed")
    if deepspeed is not None:
        args.training.hf_deepspeed_config = SimpleNamespace(config=deepspeed)
        check_lora(args.training)  # once more, with DeepSpeed's stage
        args.training.hf_deepspeed_config = None
    _name_regions_by_flags(args.model, adapter)
    try:
        with host.running(), adapters_that_count(args.training):
            model = host.outline_model(args)
    except OSError as error:
        tower = getattr(args.model, "vision_tower", None)
        named = f"{args.model.model_name_or_path}{f' or of its vision tower {tower}' if tower else ''}"
        reason = str(error).splitlines()[0]
        raise OSError(f"config.json of {named} cannot be read: name folders with that file; {reason}") from error
    freeze_for_stage(model, args.training.stage)
    return RunOutline(host, args, model, deepspeed)


@contextmanager
def adapters_that_count(training: Any) -> Iterator[None]:
    """Name the adapter whose code in peft wants values of tensors, where a plan has none.

    Args:
        training: flags of the run.

    Raises:
        ValueError: for such an adapter.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # torch raises both for tensors without values
        if not training.lora_enable:
            raise
        choice = AdapterChoice.of(training)
        fields = {**METHODS.require(choice.method).fields, **choice.options}
        fields.pop("peft_type", None)
        if choice.tuner == LORA and not fields:  # which reads no values: the fault is another
            raise
        kind = f"--lora_options {json.dumps(fields)}" if choice.tuner == LORA else f"peft_type {choice.tuner}"
        raise ValueError(
            f"plan cannot count {kind}: its code reads values of tensors, and a plan has none "
            f"({str(error).splitlines()[0]}); plan it without these options, or measure a run of a few steps"
        ) from error


def _below_adapters(words: list[str]) -> tuple[list[str], RegionConfig | None]:
    """The words with the base of a LoRA result as MODEL, into which training merges it, and the result's regions."""
    regions = None
    while (model := flag_value(words, _MODEL)) is not None and (kind := find_kind(model)).adapter:
        if kind.regions and regions is None:
            regions = read_region_config(kind.path).config
        words = [*words, f"--{_MODEL}", str(kind.base)]
    return words, regions


def _name_regions_by_flags(flags: Any, adapter: RegionConfig | None) -> None:
    """Put what files say of the region modules into the flags, so that no tensor is read."""
    config = ModelFlags.region_config(flags, adapter or _present(flags))
    for name, *_ in options():
        value = getattr(config, name)
        setattr(flags, f"region_{name}", json.dumps(value) if isinstance(value, dict) else value)
    flags.region_weights = flags.region_modules = None
    if hasattr(flags, "pretrain_mm_mlp_adapter"):
        flags.pretrain_mm_mlp_adapter = None


def _present(flags: Any) -> RegionConfig | None:
    """The regions of the checkpoint that is trained; those of a folder are read by the flags themselves."""
    if (folder := flags.region_modules) is not None and not Path(folder, CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"--{_MODULES} {folder} has no {CONFIG_FILE}: plan after the stage that writes it, or name the encoder "
            f'instead: --{_MODULES} "" --region_encoder NAME'
        )
    return flags.stored_config()


def _without(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Words without some flags and their values."""
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("--"):
            dropping = word[2:].replace("-", "_") in names
        kept += [] if dropping else [word]
    return kept
