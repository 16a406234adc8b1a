"""Regions in a LLaVA tree that starts its own ``train()``: what the two lines of our patch file install there.

``python -m pvit_ext.train`` uses nothing of this.
"""

from __future__ import annotations

import sys
from typing import Any

from pvit_ext.hosts.llava import training as llava
from pvit_ext.hosts.llava.classes import CheckpointPath
from pvit_ext.hosts.llava.patching import PATCH_POINTS, PREPROCESS_POINTS, PatchPoint, apply_pvit
from pvit_ext.tokens.serialization import save_region_modules
from pvit_ext.training.arguments import expand_command_line
from pvit_ext.training.flag_pairs import check_pairs
from pvit_ext.training.flag_parser import FlagParser
from pvit_ext.training.lion_data import check_lion, config_by_flags, prepare_data
from pvit_ext.training.llava import stage0
from pvit_ext.training.llava.arguments import RegionDataArguments, RegionModelArguments, RegionTrainingArguments
from pvit_ext.training.llava.trainer import LlavaRegionTrainer
from pvit_ext.training.output import check_output
from pvit_ext.training.run_files import check_files
from pvit_ext.training.stages import freeze_for_stage, parameter_table
from pvit_ext.training.start import resolve_model

_MODULE, _ARGUMENTS = "llava.train.train", "pvit_ext.training.llava.arguments"
_HERE = "pvit_ext.training.llava.patched_tree"
TRAIN_POINTS = (
    PatchPoint("transformers:HfArgumentParser", f"{_HERE}:ArgumentParser"),
    PatchPoint(f"{_MODULE}:ModelArguments", f"{_ARGUMENTS}:RegionModelArguments"),
    PatchPoint(f"{_MODULE}:DataArguments", f"{_ARGUMENTS}:RegionDataArguments"),
    PatchPoint(f"{_MODULE}:TrainingArguments", f"{_ARGUMENTS}:RegionTrainingArguments"),
    PatchPoint(f"{_MODULE}:LlavaLlamaForCausalLM", "pvit_ext.hosts.llava.classes:ByModelType"),
    PatchPoint(f"{_MODULE}:LlavaMptForCausalLM", "pvit_ext.hosts.llava.classes:ByModelType"),
    PatchPoint(
        f"{_MODULE}:LLaVATrainer",
        f"{_HERE}:TreeTrainer",
        {"_get_train_sampler": (), "create_optimizer": (), "_save_checkpoint": ("model", "trial")},
    ),
    PatchPoint(
        f"{_MODULE}:make_supervised_data_module",
        "pvit_ext.hosts.llava.dataset:make_supervised_data_module",
        {"": ("tokenizer", "data_args")},
    ),
    *PREPROCESS_POINTS,
    PatchPoint(f"{_MODULE}:find_all_linear_names", "pvit_ext.adapters.lora:find_all_linear_names", {"": ("model",)}),
    PatchPoint(
        f"{_MODULE}:safe_save_model_for_hf_trainer",
        "pvit_ext.training.llava.trainer:export_model",
        {"": ("trainer", "output_dir")},
    ),
)


def install() -> None:
    """Rebind LLaVA's names for the rest of the process, and its command line."""
    sys.argv[1:] = resolve_model(expand_command_line(sys.argv[1:]))
    apply_pvit((*PATCH_POINTS, *TRAIN_POINTS))


class ArgumentParser(FlagParser):
    """transformers' parser as LLaVA's ``train()`` gets it: it checks flags and data before a model is loaded."""

    def parse_args_into_dataclasses(self, *args: Any, **keywords: Any) -> Any:
        """Parse as transformers does, then check the flags against each other and the data."""
        parsed = super().parse_args_into_dataclasses(*args, **keywords)
        by_kind = {type(one): one for one in parsed}
        model: RegionModelArguments | None = by_kind.get(RegionModelArguments)
        data, training = by_kind.get(RegionDataArguments), by_kind.get(RegionTrainingArguments)
        if model is not None:
            model.check_model()
        if data is not None and training is not None:
            _refuse_methods(training)
            check_output(training.output_dir, training.stage, training.lora_enable)
            if model is not None:
                check_pairs(model, training)
            check_files(data, training)
            if model is not None:
                check_lion(config_by_flags(model), data, training)
        if model is not None:
            model.model_name_or_path = CheckpointPath(model.model_name_or_path)
        return parsed


def _refuse_methods(arguments: RegionTrainingArguments) -> None:
    """LLaVA's ``train()`` makes its LoRA itself, and would drop these flags without a word."""
    given = {"lora_method": arguments.lora_method, "lora_options": arguments.lora_options}
    given["bits"] = None if arguments.bits == 16 else str(arguments.bits)  # its call crashes in transformers 5
    if arguments.lora_enable and arguments.lora_bias != "none":
        raise ValueError(
            f"--lora_bias {arguments.lora_bias}: LLaVA's own train() saves the biases of the vision tower and the "
            "region modules with the adapter; use python -m pvit_ext.train"
        )
    for name, value in given.items():
        if value:
            raise ValueError(f"--{name} {value}: LLaVA's own train() makes plain LoRA; use python -m pvit_ext.train")


class TreeTrainer(LlavaRegionTrainer):
    """The trainer that LLaVA's ``train()`` makes; it prepares the model itself, since LLaVA knows no stage."""

    def __init__(self, model: Any, args: Any, train_dataset: Any = None, **keywords: Any) -> None:
        if getattr(model.get_model(), "region_projector", None) is None:
            raise ValueError("the model has no vision tower to put regions beside: give --vision_tower")
        freeze_for_stage(model, args.stage)
        self.without_regions = stage0.is_without_regions(model, args, train_dataset)
        if self.without_regions:
            stage0.freeze_regions(model)
        llava.connect_data(train_dataset, model, args)
        prepare_data(train_dataset, train_dataset.data_args, args.stage)
        llava.fit_to_machine(model)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **keywords)
        self.say(parameter_table(model, llava.parts(model)))

    def save_state(self) -> None:
        """Write a LoRA run's region modules, marked as incomplete until LLaVA has written the adapter."""
        super().save_state()
        if self.args.lora_enable:
            base, write = self.model.name_or_path, self.args.should_save
            save_region_modules(self.model, self.args.output_dir, base, write, adapter=True)
