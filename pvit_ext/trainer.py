"""LLaVA's trainer with regions: what a stage trains, the table that says so, and what the end of a run writes."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.train.llava_trainer import LLaVATrainer
from torch import nn
from transformers import Trainer
from transformers.utils import cached_file

from pvit_ext import compat
from pvit_ext.checkpoint import save_region_modules
from pvit_ext.files import atomic_write


class RegionTrainer(LLaVATrainer):
    """LLaVATrainer that freezes by stage and feeds the encoder's ``preprocess`` to the data workers."""

    def __init__(self, model: Any, args: Any, train_dataset: Any = None, **keywords: Any) -> None:
        if getattr(model.get_model(), "region_projector", None) is None:
            raise ValueError("the model has no image tower to put regions beside: give --vision_tower")
        freeze_for_stage(model, args.stage)
        inner = model.get_model()
        train_dataset.bad_records.open(args.output_dir)
        train_dataset.region_encoder = inner.region_encoder
        train_dataset.slots_per_region = model.region_config.slots_per_region
        if model.config.image_aspect_ratio != "anyres":
            train_dataset.image_rows = model.get_vision_tower().num_patches
        compat.cpu_tower_dtype(model)
        compat.fit_zero3(model)
        keywords = compat.trainer_keywords(Trainer, {**keywords, "train_dataset": train_dataset})
        super().__init__(model=model, args=args, **keywords)
        if self.is_world_process_zero():
            print(parameter_table(model), flush=True)

    def _get_train_sampler(self, *_: Any) -> Any:
        return super()._get_train_sampler()  # transformers 5 passes the dataset, LLaVA's override takes none

    def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> None:
        """transformers' own: LLaVA's override passes one argument too many to transformers 5."""
        extra = {"metrics": metrics} if "metrics" in inspect.signature(Trainer._save_checkpoint).parameters else {}
        Trainer._save_checkpoint(self, model, trial, **extra)

    def save_state(self) -> None:
        """LLaVA then writes a LoRA run's adapter; the region modules go before it, marked as incomplete without it."""
        super().save_state()
        if self.args.lora_enable:
            base, write = self.model.name_or_path, self.args.should_save
            save_region_modules(self.model, self.args.output_dir, base, write, adapter=True)


def freeze_for_stage(model: Any, stage: str) -> None:
    """Set ``requires_grad``: structurally, by module, never by name.

    Args:
        model: region-enabled LLaVA model, possibly inside peft's wrapper.
        stage: ``align`` trains nothing but the region modules; ``finetune`` adds them to what LLaVA trains.
    """
    if stage == "align":
        model.requires_grad_(False)
    inner = model.get_model()
    inner.region_projector.requires_grad_(True)
    inner.region_encoder.requires_grad_(not inner.region_encoder.frozen)
    if stage == "align" and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"--stage align trains region modules, {inner.region_encoder.name!r} has none: use finetune")


def parameter_table(model: Any) -> str:
    """One line per module: parameters, how many of them train, and whether they train fully or through LoRA."""
    lines = [f"{'module':<28}{'parameters':>16}{'trained':>16}  state"]
    for name, parameters in _parts(model):
        total, trained = (
            sum(_count(p) for p in chosen) for chosen in (parameters, [p for p in parameters if p.requires_grad])
        )
        state = "frozen" if not trained else "trained" if trained == total else "partly trained"
        lines.append(f"{name:<28}{total:>16,}{trained:>16,}  {state}")
    return "\n".join(lines)


def _parts(model: Any) -> Iterator[tuple[str, list[nn.Parameter]]]:
    inner = model.get_model()
    lora = [p for module in _lora_layers(model) for p in module.parameters()]
    named: dict[str, Any] = {
        "image tower": model.get_vision_tower(),
        "mm_projector": inner.mm_projector,
        "region encoder": inner.region_encoder,
        **{f"region projector: {name}": part for name, part in inner.region_projector.named_children()},
    }
    parts = {name: list(module.parameters()) for name, module in named.items()}
    taken = {id(p) for parameters in [*parts.values(), lora] for p in parameters}
    yield "language model", [p for p in model.parameters() if id(p) not in taken]
    yield from parts.items()
    if lora:
        yield "LoRA", lora


def _lora_layers(model: Any) -> list[nn.Module]:
    """peft's adapter weights: the dictionaries of adapters in every LoRA layer."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    names = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")  # peft's own attributes since 0.4
    return [part for layer in layers for name in names if isinstance(part := getattr(layer, name, None), nn.Module)]


def _count(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 leaves an empty tensor


def _copy_tokenizer(source: str, output_dir: str) -> None:
    """Keep LLaVA's own tokenizer files: transformers 5 does not write tokenizer.model, which older ones need."""
    for name in ("tokenizer.model", "tokenizer_config.json"):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            with atomic_write(Path(output_dir, name)) as temporary:
                shutil.copyfile(path, temporary)


def export_model(trainer: RegionTrainer, output_dir: str) -> None:
    """Write a run's result: ``align`` the region modules, ``finetune`` a whole checkpoint with its tokenizer."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.args.stage == "align":
        save_region_modules(model, output_dir, base=model.name_or_path, write=trainer.args.should_save)
    else:
        trainer.save_model(output_dir)
        if trainer.args.should_save:
            _copy_tokenizer(model.name_or_path, output_dir)
    trainer.accelerator.wait_for_everyone()
