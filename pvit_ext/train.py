"""Both stages of PVIT through LLaVA's own ``train()``: ``python -m pvit_ext.train --stage align ...``.

LLaVA's function looks up everything it uses as globals of its module. They are rebound for the time of the call.
"""

from __future__ import annotations

import sys

from pvit_ext import compat
from pvit_ext.patching import PATCH_POINTS, PatchPoint, apply_pvit, patched

_MODULE = "llava.train.train"
TRAIN_POINTS = (
    PatchPoint(f"{_MODULE}:ModelArguments", "pvit_ext.arguments:RegionModelArguments"),
    PatchPoint(f"{_MODULE}:DataArguments", "pvit_ext.arguments:RegionDataArguments"),
    PatchPoint(f"{_MODULE}:TrainingArguments", "pvit_ext.arguments:RegionTrainingArguments"),
    PatchPoint(f"{_MODULE}:LlavaLlamaForCausalLM", "pvit_ext.language_models:ByModelType"),
    PatchPoint(f"{_MODULE}:LlavaMptForCausalLM", "pvit_ext.language_models:ByModelType"),
    PatchPoint(
        f"{_MODULE}:LLaVATrainer",
        "pvit_ext.trainer:RegionTrainer",
        {"_get_train_sampler": (), "create_optimizer": (), "_save_checkpoint": ("model", "trial")},
    ),
    PatchPoint(
        f"{_MODULE}:make_supervised_data_module",
        "pvit_ext.data:make_supervised_data_module",
        {"": ("tokenizer", "data_args")},
    ),
    PatchPoint(
        f"{_MODULE}:tokenizer_image_token",
        "pvit_ext.prompt:tokenizer_region_token",
        {"": ("prompt", "tokenizer", "image_token_index", "return_tensors")},
    ),
    PatchPoint(
        f"{_MODULE}:preprocess_mpt",
        "pvit_ext.chatml:preprocess_mpt",
        {"": ("sources", "tokenizer", "has_image")},
    ),
    PatchPoint(f"{_MODULE}:find_all_linear_names", "pvit_ext.lora:find_all_linear_names", {"": ("model",)}),
    PatchPoint(
        f"{_MODULE}:safe_save_model_for_hf_trainer",
        "pvit_ext.trainer:export_model",
        {"": ("trainer", "output_dir")},
    ),
)


def main(attn_implementation: str | None = None) -> None:
    """Run LLaVA's ``train()`` with regions on the command line of this process."""
    compat.prepare_training()
    from pvit_ext.arguments import expand_command_line

    sys.argv[1:] = expand_command_line(sys.argv[1:])
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        from llava.train.train import train

        train(attn_implementation=attn_implementation)


def use_regions() -> None:
    """Give LLaVA's own ``train()`` regions for the rest of the process: what a tree with our patch file calls first."""
    compat.prepare_training()
    from pvit_ext.arguments import expand_command_line

    sys.argv[1:] = expand_command_line(sys.argv[1:])
    apply_pvit((*PATCH_POINTS, *TRAIN_POINTS))


if __name__ == "__main__":
    from pvit_ext.preemption import EXIT_STATUS, Stopped

    try:
        main()
    except Stopped:
        compat.leave_cpu_group(EXIT_STATUS)
        raise
    compat.leave_cpu_group()
