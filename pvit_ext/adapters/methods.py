"""The methods that ``--lora_method`` names.

Every method trains beside the region modules, is saved without the base, reloads to equal logits whatever the seed,
merges into the base, and resumes exactly; on one rank and on several, under ZeRO-2 and ZeRO-3.
``python -m tests.lora_methods`` tries each, and writes the table of ``docs/lora.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.plugins import Registry


@dataclass(frozen=True)
class LoraMethod:
    """A way to make an adapter.

    Args:
        about: one line for users.
        fields: values for the config of peft's LoRA, or of the tuner that their ``peft_type`` names.
    """

    about: str
    fields: Mapping[str, Any] = field(default_factory=dict)


METHODS: Registry[LoraMethod] = Registry("LoRA method", "pvit_ext.lora_methods")
"""Name -> method; an entry point of the group adds one."""

METHODS.update(
    {
        "lora": LoraMethod("a product of two thin matrices beside each layer (arXiv 2106.09685)"),
        "rslora": LoraMethod(
            "scaled by alpha over the root of the rank: high ranks learn too (arXiv 2312.03732)", {"use_rslora": True}
        ),
        "dora": LoraMethod("the length of each weight row learns apart from it (arXiv 2402.09353)", {"use_dora": True}),
        "pissa": LoraMethod(
            "starts as the largest singular directions of the weight, the rest stays frozen (arXiv 2404.02948)",
            {"init_lora_weights": "pissa"},
        ),
        "olora": LoraMethod(
            "starts as the QR decomposition of the weight (arXiv 2406.01775)", {"init_lora_weights": "olora"}
        ),
    }
)
