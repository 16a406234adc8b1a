"""transformers' Trainer for a model of its own, and what a run writes."""

from __future__ import annotations

from typing import Any

from pvit_ext.adapters.loraplus import split_groups
from pvit_ext.hosts.transformers.training import connectors, read_checkpoint
from pvit_ext.tokens.serialization import save_region_modules
from pvit_ext.training import lora_checkpoint
from pvit_ext.training.stages import trains_parts_alone
from pvit_ext.training.trainer import RegionTrainer


class TransformersRegionTrainer(RegionTrainer):
    """Gives what joins tower and language model its own learning rate, if there is one."""

    def create_optimizer(self, *arguments: Any) -> Any:
        """transformers' own; with ``--mm_projector_lr`` its groups are split."""
        if self.optimizer is None and (rate := self.args.mm_projector_lr) is not None:
            base = getattr(self.model, "get_base_model", lambda: self.model)()
            apart = {id(parameter) for module in connectors(base) for parameter in module.parameters()}
            optimizer = super().create_optimizer(*arguments)
            split_groups(optimizer, apart, lambda _: rate)
            return optimizer
        return super().create_optimizer(*arguments)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a whole model by the names that its class maps; adapters and FSDP's files as transformers does."""
        if self.args.lora_enable or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            read_checkpoint(self.model, resume_from_checkpoint)


def export_model(trainer: TransformersRegionTrainer) -> None:
    """Write a run's result: region modules, an adapter with them, or a checkpoint with its processor."""
    args = trainer.args
    if args.lora_enable:
        lora_checkpoint.save_adapter(trainer.model, args.output_dir, args.should_save)
    else:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if trains_parts_alone(args.stage):
            save_region_modules(model, args.output_dir, base=model.name_or_path, write=args.should_save)
        else:
            trainer.save_model(args.output_dir)
    trainer.accelerator.wait_for_everyone()
