"""Adapters of peft that cannot train, save, reload, merge or resume here, each with the reason.

``python -m tests.lora_methods`` shows each reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

_NEEDS_DATA = "peft fills it from activations before training, which a run here does not collect"
_CHANGES_BASE = "it changes the base at its start, differently each time, and the change is not saved"
_PROMPT = "it adds positions by ids, and a LLaVA's prompt reaches the language model as embeddings"
_READS = "it computes with the weights themselves, and those of few bits are stored as whole numbers"
_MADE_LIKE = "peft makes its tensors in the dtype of the weights, which are whole numbers in few bits"
_PLAIN_LAYERS = "peft puts it on layers of full weights alone"
_LEFT_OUT = "peft leaves it out where weights are quantised, and puts it in where a result is merged"
_PACKED = "it needs weights in their shape, and 4 bits are packed two to a byte; 8 bits go"
_FULL_WEIGHTS = "it reads full weights at its start, and they are partitioned by then"
TUNERS = {
    "ADALORA": "peft counts its steps by calls that the trainer does not make, and cannot write its ranks",
    "ADAPTION_PROMPT": _PROMPT,
    "BEFT": "it is a bias for layers that have none, which cannot be merged into them",
    "CARTRIDGE": _PROMPT,
    "CPT": _PROMPT,
    "LILY": "peft cannot merge it: matrices are shared among layers and routed by the input",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "POLY": "it wants the task of each sample with every call, and neither beams nor gradient checkpointing keep it",
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "SHADOW": "it is a second network beside the language model, which cannot be merged into it",
    "XLORA": "it mixes trained adapters by a first pass, which fails on the inputs of a model with images",
}
"""peft_type -> why no run trains it and no folder of it loads."""

INITS = {
    "corda": _NEEDS_DATA,
    "eva": _NEEDS_DATA,
    "loftq": "it quantises the base itself, and only on a GPU; --bits 4 quantises it here",
    "lora_ga": _CHANGES_BASE,
}
"""init_lora_weights -> the same."""


@dataclass(frozen=True)
class Refusal:
    """A kind of adapter that is refused, always or under a condition.

    Args:
        holds: whether a config of peft is of this kind.
        name: the kind's name in messages.
        reason: what fails.
        when: the condition: ``always``, ``training``, ``zero3``, ``bits`` (4 or 8), ``4 bits`` or ``8 bits``.
    """

    holds: Callable[[Any], bool]
    name: str
    reason: str
    when: str = "always"


def _set(name: str) -> Callable[[Any], bool]:
    return lambda config: bool(getattr(config, name, None))


def _tuner(*names: str) -> Callable[[Any], bool]:
    return lambda config: tuner_of(config) in names


def _starts_with(*starts: str) -> Callable[[Any], bool]:
    def holds(config: Any) -> bool:
        start = getattr(config, "init_lora_weights", None)
        return isinstance(start, str) and start.startswith(starts)

    return holds


def _differs(*names: str) -> Callable[[Any], bool]:
    """Whether one of these fields has another value than its default."""

    def holds(config: Any) -> bool:
        defaults = {item.name: item.default for item in fields(config)}
        return any(name in defaults and getattr(config, name) not in (None, defaults[name]) for name in names)

    return holds


FIELDS = (
    Refusal(
        _starts_with("pissa_niter"), "init_lora_weights pissa_niter_*",
        "random numbers decide its start: under another seed it reloads to other logits; use pissa",
    ),
    Refusal(
        _set("modules_to_save"), "modules_to_save",
        "peft would wrap modules that the run trains and saves anyway: region modules, and projectors by their flags",
    ),
    Refusal(_set("layer_replication"), "layer_replication", "a merge would give the base layers that it does not have"),
    Refusal(_set("lora_bias"), "lora_bias", "peft cannot merge it into a layer without bias"),
    Refusal(_set("alora_invocation_tokens"), "alora_invocation_tokens", _PROMPT),
    Refusal(_set("megatron_config"), "megatron_config", "the hosts have no layers of Megatron"),
    Refusal(_differs("megatron_core"), "megatron_core", "the hosts have no layers of Megatron"),
    Refusal(_set("arrow_config"), "arrow_config", "it routes among adapters that are trained already"),
    Refusal(_set("loftq_config"), "loftq_config", "it is for init_lora_weights loftq, which is refused"),
    Refusal(_set("eva_config"), "eva_config", "it is for init_lora_weights eva, which is refused"),
    Refusal(_set("corda_config"), "corda_config", "it is for init_lora_weights corda, which is refused"),
    Refusal(_set("lora_ga_config"), "lora_ga_config", "it is for init_lora_weights lora_ga, which is refused"),
    Refusal(_differs("use_qalora", "qalora_group_size"), "use_qalora", "peft has it for layers of GPTQ alone"),
    Refusal(_set("fan_in_fan_out"), "fan_in_fan_out", "it is for Conv1D layers, which the hosts do not have"),
    Refusal(
        lambda config: bool(getattr(config, "apply_GS", False)) and config.r % 2 == 0, "apply_GS with an even r",
        "its vectors start in equal pairs, and it divides by 0: losses are 0, logits no numbers; an odd r goes",
    ),
    Refusal(
        _set("sample_at_inference"), "sample_at_inference",
        "the trained model draws its answers, so a loaded or merged one has others",
    ),
    Refusal(
        _set("save_only_topk_weights"), "save_only_topk_weights",
        "what it leaves out of a checkpoint is missing when the run resumes",
    ),
    Refusal(
        _set("monteclora_config"), "monteclora_config",
        "peft draws its noise ahead, and no checkpoint keeps that: a resumed run has other losses", "training",
    ),
    Refusal(
        _differs(
            "use_asa", "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval", "asa_importance_beta",
            "asa_uncertainty_beta", "asa_schedule_exponent",
        ),
        "use_asa", "peft chooses subspaces by calls that the trainer does not make: it trains as without",
    ),
)  # fmt: skip
CONDITIONS = (
    Refusal(_tuner("DELORA"), "DELORA", "it learns nothing where its tensors are partitioned", "zero3"),
    Refusal(_tuner("LOHA"), "LOHA", "its backward pass reads tensors that are partitioned by then", "zero3"),
    Refusal(
        lambda config: tuner_of(config) == "TRAINABLE_TOKENS" or bool(getattr(config, "trainable_token_indices", None)),
        "trainable tokens", "peft indexes the embedding matrix, which is partitioned", "zero3",
    ),
    *(
        Refusal(_tuner(name), name, _FULL_WEIGHTS, "zero3")
        for name in ("ADAMSS", "DEFT", "FROD", "OSF", "SUPERTUNING", "TINYLORA")
    ),
    Refusal(_tuner("LN_TUNING"), "LN_TUNING", "its copies of norms are read before they are gathered", "zero3"),
    Refusal(_tuner("RANDLORA"), "RANDLORA", "its losses differ from those without ZeRO-3", "zero3"),
    Refusal(_starts_with("pissa"), "pissa", "peft cannot decompose a quantised weight", "bits"),
    Refusal(_starts_with("olora"), "olora", "on reloading, the quantised base takes another start", "bits"),
    *(Refusal(_tuner(name), name, _READS, "bits") for name in ("DEFT", "DELORA", "HRA", "OSF", "PSOFT", "SUPERTUNING")),
    *(Refusal(_tuner(name), name, _MADE_LIKE, "bits") for name in ("ADAMSS", "FROD", "TINYLORA")),
    *(Refusal(_tuner(name), name, _PACKED, "4 bits") for name in ("LOHA", "LOKR")),
    Refusal(_tuner("PEANUT"), "PEANUT", "it is a function of the weights: merged into full ones it is far off", "bits"),
    Refusal(_tuner("GLORA"), "GLORA", _PLAIN_LAYERS, "bits"),
    Refusal(_tuner("UNILORA"), "UNILORA", "it learns nothing on quantised weights", "bits"),
    Refusal(_starts_with("orthogonal"), "init_lora_weights orthogonal", _MADE_LIKE, "bits"),
    Refusal(_starts_with("mica"), "init_lora_weights mica", _READS, "bits"),
    Refusal(_set("velora_config"), "velora_config", _PLAIN_LAYERS, "bits"),
    *(Refusal(_set(name), name, _LEFT_OUT, "bits") for name in ("kasa_config", "use_bdlora")),
    Refusal(_set("use_dora"), "dora", "the scales of 8 bits are lost at its second step; 4 bits go", "8 bits"),
)  # fmt: skip


def tuner_of(config: Any) -> str:
    """peft's name of a config's tuner."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def check(config: Any, zero3: bool = False, bits: int = 16, training: bool = True) -> None:
    """Refuse an adapter that would not train, save, reload, merge or resume.

    Args:
        config: of peft.
        zero3: whether DeepSpeed partitions parameters.
        bits: bits per weight of the base.
        training: whether it is to train; one that has trained may answer.

    Raises:
        ValueError: with the adapter's kind and the reason.
    """
    tuner, start = tuner_of(config), getattr(config, "init_lora_weights", None)
    if tuner in TUNERS:
        raise ValueError(f"peft_type {tuner} is refused: {TUNERS[tuner]}")
    if isinstance(start, str) and start in INITS:
        raise ValueError(f"init_lora_weights {start} is refused: {INITS[start]}")
    states = {"always": True, "training": training, "zero3": zero3}
    states |= {"bits": bits < 16, "4 bits": bits == 4, "8 bits": bits == 8}
    few = f" with --bits {bits} (16 goes)"
    said = {"zero3": " under ZeRO-3 (ZeRO-2 goes)", "bits": few, "4 bits": few, "8 bits": few}
    for one in (*FIELDS, *CONDITIONS):
        if states[one.when] and one.holds(config):
            raise ValueError(f"{one.name} is refused{said.get(one.when, '')}: {one.reason}")
