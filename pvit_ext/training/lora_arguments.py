"""The flags of an adapter that pvit-ext adds to LLaVA's, and their check."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import transformers

from pvit_ext.adapters import loraplus, refusals
from pvit_ext.adapters.methods import METHODS
from pvit_ext.adapters.options import FLAGS, LORA, AdapterChoice, parse_options
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.adapters.values import check_tokens, has_tokens
from pvit_ext.training.flag_pairs import changed_flags
from pvit_ext.training.stages import NO_LEARNING, trains_parts_alone

_ADDED = ("lora_method", "lora_options", "loraplus_lr_ratio")
BITS_UNDER_ZERO3 = "ZeRO-3 cannot partition quantised weights; use recipes/zero2.json, or 16 bits"

logger = logging.getLogger(__name__)


@dataclass
class LoraFlags:
    """How the adapter of ``--lora_enable`` is made and trained."""

    lora_method: str | None = field(
        default=None, metadata={"help": f"{', '.join(METHODS.names())}, or one that a package adds; default lora"}
    )
    lora_options: str | None = field(
        default=None, metadata={"help": "fields of peft's LoraConfig, or of the tuner that peft_type names, as JSON"}
    )
    loraplus_lr_ratio: float | None = field(
        default=None, metadata={"help": "LoRA+: the matrices B learn at so many times the rate; its paper takes 16"}
    )


def check_lora(arguments: Any) -> None:
    """Raise ValueError for flags of an adapter that do not fit each other, or in a run without an adapter.

    Args:
        arguments: :class:`LoraFlags` with those of transformers and LLaVA.
    """
    _check_bits(arguments)
    if path := getattr(arguments, "lora_weight_path", None):  # LLaVA's train() does not read it either
        raise ValueError(
            f"--lora_weight_path {path}: no adapter is loaded by this flag; to train on from a LoRA result, give "
            f"--model_name_or_path {path}"
        )
    given = [name for name in _ADDED if getattr(arguments, name) not in (None, "")]
    given += changed_flags(arguments, *FLAGS.values())
    if not arguments.lora_enable:
        if given:
            raise ValueError(
                f"--{given[0]} {getattr(arguments, given[0])}: this run has no adapter, "
                "add --lora_enable True or drop the flag"
            )
        return
    if trains_parts_alone(arguments.stage):
        raise ValueError(
            f"--lora_enable True: --stage {arguments.stage} trains region modules only, and {NO_LEARNING}; drop the "
            "flag, or train with --stage finetune"
        )
    choice = AdapterChoice.of(arguments)
    if choice.tuner != LORA and (idle := changed_flags(arguments, *FLAGS.values())):  # the recipe gives some
        said = ", ".join(f"--{name} {getattr(arguments, name)}" for name in idle)
        logger.warning("without effect, because %s takes the fields of --lora_options alone: %s", choice.tuner, said)
    refusals.check(choice.config(), zero_stage(arguments) == 3, arguments.bits)
    if arguments.loraplus_lr_ratio is not None:
        optimizer = str(getattr(arguments.optim, "value", arguments.optim))
        loraplus.check(arguments.loraplus_lr_ratio, choice.tuner, optimizer, _deepspeed(arguments))


def _check_bits(arguments: Any) -> None:
    if arguments.bits != 4 and (idle := changed_flags(arguments, "quant_type", "double_quant")):
        raise ValueError(
            f"--{idle[0]} {getattr(arguments, idle[0])} is a way to store 4 bits, and this run has --bits "
            f"{arguments.bits}: add --bits 4, or drop the flag"
        )
    if Quantization.of_arguments(arguments) is None:
        return
    if not arguments.lora_enable:
        raise ValueError(
            f"--bits {arguments.bits}: quantised weights do not train, but an adapter on them does; add --lora_enable "
            "True (--stage finetune), or drop the flag"
        )
    if zero_stage(arguments) == 3:
        raise ValueError(f"--bits {arguments.bits}: {BITS_UNDER_ZERO3}")


def check_tokens_of(arguments: Any, checkpoint: str | None) -> None:
    """Raise ValueError for tokens to train that a checkpoint does not have, where its config.json is at hand.

    Args:
        arguments: as for :func:`check_lora`.
        checkpoint: ``--model_name_or_path``.
    """
    choice = AdapterChoice.of(arguments)
    if not (arguments.lora_enable and checkpoint and has_tokens(choice.options)):
        return
    try:
        values, _ = transformers.PretrainedConfig.get_config_dict(checkpoint)
    except (OSError, ValueError):  # whoever loads it says so
        return
    count = values.get("vocab_size") or values.get("text_config", {}).get("vocab_size")
    if isinstance(count, int):
        check_tokens(choice.config(), count)


def adapter_identity(arguments: Any) -> dict[str, Any]:
    """The values that a resumed run must share with the run before; none for LLaVA's own LoRA."""
    kind = {"quant_type": arguments.quant_type, "double_quant": arguments.double_quant}  # of the base under the adapter
    return {
        "lora_method": None if arguments.lora_method in (None, "", "lora") else arguments.lora_method,
        "lora_options": parse_options(arguments.lora_options) or None,
        "bits": None if arguments.bits == 16 else arguments.bits,
        **(kind if arguments.bits == 4 else {}),
        "loraplus_lr_ratio": arguments.loraplus_lr_ratio,  # a checkpoint restores the rates that it made
    }


def zero_stage(arguments: Any) -> int:
    """DeepSpeed's ZeRO stage, 0 without DeepSpeed."""
    return int(_deepspeed(arguments).get("zero_optimization", {}).get("stage", 0))


def _deepspeed(arguments: Any) -> dict[str, Any]:
    given = getattr(arguments, "hf_deepspeed_config", None)
    return {} if given is None else given.config
