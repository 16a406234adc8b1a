"""What each of the two stages trains, and the table that says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from pvit_ext.adapters.quantization import count
from pvit_ext.adapters.tensors import adapter_parameters


def freeze_for_stage(model: Any, stage: str) -> None:
    """Set ``requires_grad`` by module, never by name.

    Args:
        model: with a ``region_module``, possibly inside peft's wrapper.
        stage: ``align`` trains nothing but the region modules; ``finetune`` adds them to what the host's flags train.

    Raises:
        ValueError: when ``align`` has nothing to train.
    """
    if stage == "align":
        model.requires_grad_(False)
    encoder = model.region_module.region_encoder
    model.region_module.region_projector.requires_grad_(True)
    encoder.requires_grad_(not encoder.frozen)
    if stage == "align" and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"--stage align trains region modules, {encoder.name!r} has none: use finetune")


def parameter_table(model: Any, host_parts: dict[str, nn.Module]) -> str:
    """One line per module: parameters, how many of them train, and whether they train fully or through LoRA.

    Args:
        model: with a ``region_module``, possibly inside peft's wrapper.
        host_parts: modules beside the language model and the region module, by name.
    """
    lines = [f"{'module':<28}{'parameters':>16}{'trained':>16}  state"]
    for name, parameters in _parts(model, host_parts):
        total, trained = (
            sum(count(p) for p in chosen) for chosen in (parameters, [p for p in parameters if p.requires_grad])
        )
        state = "frozen" if not trained else "trained" if trained == total else "partly trained"
        lines.append(f"{name:<28}{total:>16,}{trained:>16,}  {state}")
    return "\n".join(lines)


def _parts(model: Any, host_parts: dict[str, nn.Module]) -> Iterator[tuple[str, list[nn.Parameter]]]:
    adapter = adapter_parameters(model)
    module = model.region_module
    projector = {f"region projector: {name}": part for name, part in module.region_projector.named_children()}
    named = {**host_parts, "region encoder": module.region_encoder, **projector}
    parts = {name: list(module.parameters()) for name, module in named.items()}
    taken = {id(p) for parameters in [*parts.values(), adapter] for p in parameters}
    yield "language model", [p for p in model.parameters() if id(p) not in taken]
    yield from parts.items()
    if adapter:
        yield "LoRA", adapter
