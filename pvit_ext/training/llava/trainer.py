"""LLaVA's trainer with all that :class:`~pvit_ext.training.trainer.RegionTrainer` adds, and what a run writes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from llava.train.llava_trainer import LLaVATrainer
from transformers import Trainer

from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.tokenizer import keep_original_files
from pvit_ext.tokens.serialization import save_region_modules
from pvit_ext.training.llava import stage0
from pvit_ext.training.stages import trains_parts_alone
from pvit_ext.training.trainer import RegionTrainer


class LlavaRegionTrainer(RegionTrainer, LLaVATrainer):
    """LLaVATrainer orders samples by modality and gives mm_projector a learning rate; nothing of its saving is used.

    Attributes:
        without_regions: whether it is LLaVA's own first stage, whose result has no region modules.
    """

    without_regions: bool = False

    def _modality_order(self) -> Any:
        return LLaVATrainer._get_train_sampler(self)

    def create_optimizer(self, *arguments: Any) -> Any:
        """LLaVA's, without groups that hold no parameter."""
        optimizer = super().create_optimizer(*arguments)
        compat.drop_empty_groups(optimizer)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        saving = stage0.saving_no_regions(self.model, state_dict) if self.without_regions else nullcontext(state_dict)
        with saving as state:
            Trainer._save(self, output_dir, state)  # LLaVA's writes nothing with --tune_mm_mlp_adapter
        keep_original_files(self.model.name_or_path, output_dir or self.args.output_dir)


def export_model(trainer: LlavaRegionTrainer, output_dir: str) -> None:
    """Write a run's result: ``finetune`` a whole checkpoint and tokenizer, other stages region modules and config."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trains_parts_alone(trainer.args.stage):
        save_region_modules(model, output_dir, base=model.name_or_path, write=trainer.args.should_save)
        if trainer.args.should_save:  # settings of the run, such as image_aspect_ratio, may differ from its base's
            model.config.save_pretrained(output_dir)
    else:
        if trainer.without_regions:
            stage0.drop_regions(model)
        trainer.save_model(output_dir)
        if getattr(trainer.args, "tune_mm_mlp_adapter", False):
            stage0.write_projector(model, output_dir, trainer.args.should_save)
    trainer.accelerator.wait_for_everyone()
