"""The llava host as training asks for it: LLaVA's own methods and trainer, with regions."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from pvit_ext.hosts.llava import compat, outline
from pvit_ext.hosts.llava import training as llava
from pvit_ext.hosts.llava.dataset import make_supervised_data_module
from pvit_ext.hosts.llava.vision_pass import LlavaVisionPass
from pvit_ext.training import lora_checkpoint
from pvit_ext.training.contract import Arguments
from pvit_ext.training.llava import stage0
from pvit_ext.training.llava.arguments import RegionDataArguments, RegionModelArguments, RegionTrainingArguments
from pvit_ext.training.llava.trainer import LlavaRegionTrainer, export_model
from pvit_ext.training.start import resolve_model


class LlavaHost:
    """See :class:`~pvit_ext.training.contract.TrainingHost`."""

    argument_classes = (RegionModelArguments, RegionDataArguments, RegionTrainingArguments)

    def command_line(self, words: list[str]) -> list[str]:
        """Replace region modules or a LoRA result as MODEL by what lies under them."""
        return resolve_model(words)

    def running(self) -> AbstractContextManager[None]:
        """LLaVA's globals, rebound for the time of a run."""
        return llava.llava_names()

    def load_model(self, args: Arguments) -> tuple[Any, Any]:
        """Load the language model, with LoRA, then the vision modules.

        Raises:
            ValueError: for a checkpoint of another host, and when there is no vision tower, before anything is loaded.
        """
        path, training = args.model.model_name_or_path, args.training
        llava.region_class_of(path)  # raises
        if args.model.vision_tower is None:
            raise ValueError("the model has no vision tower to put regions beside: give --vision_tower")
        model = llava.load_language_model(path, training, args.attn_implementation)
        return _complete(model, llava.load_tokenizer, args)

    def outline_model(self, args: Arguments) -> Any:
        """The same model on the meta device."""
        path, training = args.model.model_name_or_path, args.training
        with outline.without_files():
            model = outline.outline_language_model(path, args.model, training, args.attn_implementation)
            with compat.vision_tower_from_config():
                return _complete(model, outline.outline_tokenizer, args)[0]

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Vision tower and mm_projector."""
        return llava.parts(model)

    def load_data(self, args: Arguments, model: Any, processor: Any) -> dict[str, Any]:
        """LLaVA's dataset and collator, with regions."""
        data = make_supervised_data_module(processor, args.data)
        llava.connect_data(data["train_dataset"], model, args.training)
        return data

    def make_trainer(self, args: Arguments, model: Any, processor: Any, data: dict[str, Any]) -> LlavaRegionTrainer:
        """LLaVA's trainer, with regions; in LLaVA's own first stage, which knows none, their modules are frozen."""
        without = stage0.is_without_regions(model, args.training, data["train_dataset"])
        if without:
            stage0.freeze_regions(model)
        llava.fit_to_machine(model)
        trainer = LlavaRegionTrainer(model=model, tokenizer=processor, args=args.training, **data)
        trainer.without_regions = without
        return trainer

    def vision_pass(self, args: Arguments, model: Any, processor: Any) -> LlavaVisionPass:
        """The module that LLaVA's tower wraps, with LLaVA's flags for images."""
        return LlavaVisionPass.of(model, args.data)

    def export(self, trainer: Any) -> None:
        """An adapter, region modules or a whole checkpoint, as LLaVA and stage 2 expect them."""
        args = trainer.args
        if args.lora_enable:
            lora_checkpoint.save_adapter(trainer.model, args.output_dir, args.should_save)
            trainer.accelerator.wait_for_everyone()
        else:
            export_model(trainer, args.output_dir)


def _complete(model: Any, load_tokenizer: Any, args: Arguments) -> tuple[Any, Any]:
    """Add adapter and vision to a language model."""
    path, training = args.model.model_name_or_path, args.training
    if args.model.freeze_backbone:
        model.get_model().requires_grad_(False)
    if training.lora_enable:
        model = llava.add_adapter(model, training)
    tokenizer = load_tokenizer(path, args.model.version, model, training)
    llava.add_vision(model, tokenizer, args.model, args.data, training)
    return model, tokenizer
