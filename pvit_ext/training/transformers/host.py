"""The transformers host as training asks for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pvit_ext.adapters.lora import add_lora
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.distributed import loading
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import host_of_checkpoint
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.loading import attach
from pvit_ext.hosts.transformers import training as parts_of
from pvit_ext.hosts.transformers.dataset import RegionCollator, RegionDataset
from pvit_ext.hosts.transformers.entry import HOST as ENTRY
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.hosts.transformers.outer import OuterMixin
from pvit_ext.hosts.transformers.outline import outline_checkpoint
from pvit_ext.hosts.transformers.vision_pass import TransformersVisionPass
from pvit_ext.tokens.serialization import load_region_modules
from pvit_ext.training.contract import Arguments
from pvit_ext.training.start import resolve_model
from pvit_ext.training.transformers.arguments import (
    TransformersDataArguments,
    TransformersModelArguments,
    TransformersTrainingArguments,
    without_llavas,
)
from pvit_ext.training.transformers.trainer import TransformersRegionTrainer, export_model


class TransformersHost:
    """See :class:`~pvit_ext.training.contract.TrainingHost`."""

    argument_classes = (TransformersModelArguments, TransformersDataArguments, TransformersTrainingArguments)

    def command_line(self, words: list[str]) -> list[str]:
        """Replace region modules or a LoRA result as MODEL by what lies under them, and drop LLaVA's own flags."""
        return resolve_model(without_llavas(words))

    def running(self) -> AbstractContextManager[None]:
        """Nothing: transformers needs no preparation."""
        return nullcontext()

    def load_model(self, args: Arguments) -> tuple[Any, Any]:
        """The checkpoint with the region modules that the flags ask for, its parts frozen, and its processor.

        Raises:
            ValueError: for a checkpoint of another host.
        """
        options: dict[str, Any] = (
            {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}
        )
        dtype = torch.bfloat16 if args.training.bf16 else torch.float32
        path = args.model.model_name_or_path
        kind = find_kind(path)
        if host_of_checkpoint(kind) is not ENTRY:
            raise ValueError(
                f"--host transformers trains checkpoints of transformers' own; {path} is none: leave --host out"
            )
        if (quantization := Quantization.of_arguments(args.training)) is not None:
            options["quantization"] = quantization
        device = "cpu" if quantization is None else args.training.device  # the Trainer moves no quantised model
        call = LoadCall.of(path, None, None, device, dtype, options)
        kind.announce()
        with loading():
            loaded = ENTRY.load(kind, call)
        return self._complete(loaded.model, loaded.processor, args), loaded.processor

    def outline_model(self, args: Arguments) -> Any:
        """The same model on the meta device."""
        dtype = torch.bfloat16 if args.training.bf16 else torch.float32
        with torch.device("meta"):
            model = outline_checkpoint(args.model.model_name_or_path, dtype, args.attn_implementation)
            return self._complete(model, None, args)

    def _complete(self, model: Any, processor: Any, args: Arguments) -> Any:
        """Add regions and an adapter to a checkpoint, and freeze what does not train."""
        self._add_regions(model, processor, args)
        model.config.use_cache = False
        parts_of.freeze(model, args.model.freeze_backbone, args.model.freeze_mm_mlp_adapter)
        if args.training.gradient_checkpointing:
            model.enable_input_require_grads()
        if args.training.lora_enable:
            model = self._add_lora(model, args)
        model.model_arguments = args.model
        return model

    def _add_regions(self, model: Any, processor: Any, args: Arguments) -> None:
        present = model.region_config if isinstance(model, OuterMixin) else None
        folder = args.model.region_modules
        config = args.model.region_config(present)
        if config != present or folder is not None:
            attach(model, config, folder or ".", folder is not None, None, processor)
        if folder is not None:
            load_region_modules(model, folder)

    def _add_lora(self, model: Any, args: Arguments) -> Any:
        wrapped = add_lora(model, args.training)
        for module in parts_of.connectors(model):
            module.requires_grad_(not args.model.freeze_mm_mlp_adapter)
        return wrapped

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Vision tower, and what joins it to the language model."""
        base = getattr(model, "get_base_model", lambda: model)()
        tower = family_of(base.config).tower(base.base_model)
        joints = nn.ModuleList(parts_of.connectors(base))
        inside = {id(parameter) for parameter in joints.parameters()}
        only = nn.ParameterList([one for one in tower.parameters() if id(one) not in inside])
        return {"vision tower": only, "mm_projector": joints}

    def load_data(self, args: Arguments, model: Any, processor: Any) -> dict[str, Any]:
        """Records through the processor."""
        records, bad = args.data.read
        bad.open(args.training.output_dir)
        args.data.image_processor = processor
        limit = args.training.model_max_length
        dataset = RegionDataset(records, bad, processor, args.data, limit, args.training.seed)
        return {"train_dataset": dataset, "data_collator": RegionCollator(processor.tokenizer.pad_token_id)}

    def make_trainer(
        self, args: Arguments, model: Any, processor: Any, data: dict[str, Any]
    ) -> TransformersRegionTrainer:
        """transformers' Trainer, with what every run has."""
        compat.fit_zero3(model)
        return TransformersRegionTrainer(model=model, tokenizer=processor, args=args.training, **data)

    def vision_pass(self, args: Arguments, model: Any, processor: Any) -> TransformersVisionPass:
        """The tower of the model's family, with its processor."""
        return TransformersVisionPass(model, processor)

    def export(self, trainer: Any) -> None:
        """Region modules, an adapter, or a checkpoint with its processor."""
        export_model(trainer)
