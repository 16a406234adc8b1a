"""Sizes and rates of the experiment; they were chosen on a part of the training photographs (``--develop``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

from pvit_ext.hosts.precision import cpu_has_bfloat16

AnySettings = TypeVar("AnySettings", bound="Settings")


def fast_dtype() -> str:
    """bfloat16, or float32 on a CPU without instructions for it: there a step of bfloat16 takes minutes."""
    return "bfloat16" if cpu_has_bfloat16() else "float32"


@dataclass(frozen=True)
class Settings:
    """Steps are optimizer steps of ``batch`` conversations.

    Args:
        batch: conversations a step.
        tags_steps, align_steps, finetune_steps: of stage 0, 1 and 2; an arm without region tokens has those of stage 1
            in stage 2.
        tags_rate, align_rate, finetune_rate: their learning rates.
        evenness: how much more often rare kinds are drawn, 0 to 1; see ``data.region_records``.
        dtype: in which runs compute, and answer.
    """

    batch: int = 8
    tags_steps: int = 28
    align_steps: int = 120
    finetune_steps: int = 180
    tags_rate: float = 2e-3
    align_rate: float = 1.5e-3
    finetune_rate: float = 5e-4
    evenness: float = 0.7
    dtype: str = field(default_factory=fast_dtype)

    def scaled(self: AnySettings, scale: float) -> AnySettings:
        """All steps times ``scale``, at least two."""
        steps = {name: value for name, value in asdict(self).items() if name.endswith("_steps")}
        return replace(self, **{name: max(round(value * scale), 2) for name, value in steps.items()})
