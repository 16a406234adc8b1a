"""Both stages of PVIT through LLaVA's own ``train()``: ``python -m pvit_ext.train --stage align ...``.

LLaVA's function looks up everything it uses as globals of its module. They are rebound for the time of the call.
"""

from __future__ import annotations

import sys

from pvit_ext.hosts.llava import compat, cpu_launch
from pvit_ext.hosts.llava.patching import PATCH_POINTS, PatchPoint, apply_pvit, patched

_MODULE = "llava.train.train"
TRAIN_POINTS = (
    PatchPoint("transformers:HfArgumentParser", "pvit_ext.training.arguments:ArgumentParser"),
    PatchPoint(f"{_MODULE}:ModelArguments", "pvit_ext.training.arguments:RegionModelArguments"),
    PatchPoint(f"{_MODULE}:DataArguments", "pvit_ext.training.arguments:RegionDataArguments"),
    PatchPoint(f"{_MODULE}:TrainingArguments", "pvit_ext.training.arguments:RegionTrainingArguments"),
    PatchPoint(f"{_MODULE}:LlavaLlamaForCausalLM", "pvit_ext.hosts.llava.classes:ByModelType"),
    PatchPoint(f"{_MODULE}:LlavaMptForCausalLM", "pvit_ext.hosts.llava.classes:ByModelType"),
    PatchPoint(
        f"{_MODULE}:LLaVATrainer",
        "pvit_ext.training.trainer:RegionTrainer",
        {"_get_train_sampler": (), "create_optimizer": (), "_save_checkpoint": ("model", "trial")},
    ),
    PatchPoint(
        f"{_MODULE}:make_supervised_data_module",
        "pvit_ext.hosts.llava.dataset:make_supervised_data_module",
        {"": ("tokenizer", "data_args")},
    ),
    PatchPoint(
        f"{_MODULE}:tokenizer_image_token",
        "pvit_ext.hosts.llava.region_token:tokenizer_region_token",
        {"": ("prompt", "tokenizer", "image_token_index", "return_tensors")},
    ),
    PatchPoint(
        f"{_MODULE}:preprocess_mpt",
        "pvit_ext.hosts.llava.chatml:preprocess_mpt",
        {"": ("sources", "tokenizer", "has_image")},
    ),
    PatchPoint(f"{_MODULE}:find_all_linear_names", "pvit_ext.adapters.lora:find_all_linear_names", {"": ("model",)}),
    PatchPoint(
        f"{_MODULE}:safe_save_model_for_hf_trainer",
        "pvit_ext.training.trainer:export_model",
        {"": ("trainer", "output_dir")},
    ),
)


def main(attn_implementation: str | None = None) -> None:
    """Run LLaVA's ``train()`` with regions on the command line of this process."""
    compat.prepare_training()
    from pvit_ext.training.arguments import expand_command_line
    from pvit_ext.training.start import start_from_whole

    sys.argv[1:] = start_from_whole(expand_command_line(sys.argv[1:]))
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        from llava.train.train import train

        train(attn_implementation=attn_implementation)


def use_regions() -> None:
    """Give LLaVA's own ``train()`` regions for the rest of the process: what a tree with our patch file calls first."""
    compat.prepare_training()
    from pvit_ext.training.arguments import expand_command_line
    from pvit_ext.training.start import start_from_whole

    sys.argv[1:] = start_from_whole(expand_command_line(sys.argv[1:]))
    apply_pvit((*PATCH_POINTS, *TRAIN_POINTS))


def run_as_program() -> None:
    """:func:`main`, and how a process ends behind it: with 143 where SIGTERM stopped the run."""
    from pvit_ext.training.preemption import EXIT_STATUS, Stopped

    try:
        main()
    except Stopped:
        cpu_launch.leave_cpu_group(EXIT_STATUS)
        raise
    cpu_launch.leave_cpu_group()
