"""What decides a run's losses: everything but what is known to change none of them.

An argument that a later LLaVA, transformers or pvit-ext adds is compared without being named here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pvit_ext.config import CONFIG_KEY
from pvit_ext.files import fingerprint, read_json, sha256_file
from pvit_ext.hosts.checkpoint_contents import checkpoint_contents, processor_contents
from pvit_ext.region_flags import options
from pvit_ext.training.image_contents import image_contents, image_states
from pvit_ext.training.lora_arguments import adapter_identity

HARMLESS: dict[str, tuple[str, ...]] = {
    "where results and logs go": ("output_dir", "overwrite_output_dir", "logging_dir", "run_name", "project"),
    "how a run is shown and reported": ("disable_tqdm", "report_to", "debug", "skip_memory_metrics", "log_level*"),
    "how often it is logged": (
        "logging_*",
        "log_on_each_node",
        "include_num_input_tokens_seen",
        "include_tokens_per_second",
    ),
    "when and what it saves": ("save_*", "enable_jit_checkpoint", "load_best_model_at_end"),
    "what the hub gets, and a secret": ("hub_*", "push_to_hub*", "trackio_*"),
    "evaluation and prediction read the model only": (
        *("eval_*", "evaluation_strategy", "do_*", "*_full_eval", "per_device_eval_batch_size", "region_eval_*"),
        *("per_gpu_eval_batch_size", "prediction_loss_only", "batch_eval_metrics", "include_for_metrics"),
        *("include_inputs_for_metrics", "metric_for_best_model", "greater_is_better", "label_names"),
    ),
    "who loads a batch, not which": (
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "lazy_preprocess"),
    ),
    "how a run continues": ("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    "of one process, or how processes talk": ("local_rank", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb"),
    "activations are computed again, to the same numbers": ("gradient_checkpointing*", "activation_checkpointing*"),
    "memory and caches on the disk": ("torch_empty_cache_steps", "cache_dir"),
    "it holds what the run would compute": ("region_cache",),
    "ends a run, or does not": ("max_bad_records", "allow_no_gradient"),
    "its files are compared": ("image_folder",),
    "in the region config, as the encoder took it": (
        *(f"region_{option.name}" for option in options()),
        "version",
    ),
}
"""Reason -> arguments of that kind; ``*`` stands for any text."""

_RUN = ("stage", "lora_enable", "lora_r", "lora_alpha", "lora_bias", "bf16", "fp16")


@dataclass(frozen=True)
class Identity:
    """A run in plain JSON types.

    Args:
        run: what a run that continues from this one's checkpoints must have in common with it.
        settings: what it must have in common for the same sequence of losses.
        images: fingerprints of image files, by name.
        image_states: of all image files; see :func:`~pvit_ext.training.image_contents.image_states`.
    """

    run: dict[str, Any]
    settings: dict[str, Any]
    images: dict[str, str]
    image_states: dict[str, list[int]] = field(default_factory=dict)


def identity(trainer: Any) -> Identity:
    """The identity of a trainer's run; reads the data file once, and samples of its images and the base's weights."""
    model, args, data = trainer.model, trainer.args, trainer.train_dataset
    stored = getattr(model.config, CONFIG_KEY)
    region = {f"region {name}": value for name, value in stored.items() if name != "format"}
    if region["region weights_sha256"]:
        del region["region weights"]  # known by its contents; the file may have moved
    deepspeed = trainer.accelerator.state.deepspeed_plugin
    run = {
        **{name: getattr(args, name) for name in _RUN},
        **adapter_identity(args),
        **region,
        "zero stage": deepspeed and deepspeed.zero_stage,
        "trained tensors": sum(parameter.requires_grad for parameter in model.parameters()),
        "optimizer": type(trainer).get_optimizer_cls_and_kwargs(args)[0].__name__,
        "mm_projector_lr given": args.mm_projector_lr is not None,  # it splits the optimizer's groups
    }
    settings = {"world_size": args.world_size, "samples": len(data)}
    for arguments in (args, data.data_args, model.model_arguments):
        settings |= dict(_compared(arguments))
    if args.lora_enable:  # an adapter fits its own base alone
        run["model_name_or_path"] = settings.pop("model_name_or_path")
    plain = _plain(run), _plain({key: value for key, value in settings.items() if key not in run})
    if not args.should_save:  # one rank of a machine will do
        return Identity(*plain, {})
    return Identity(*plain, image_contents(data.records), image_states(data.records))


def _compared(arguments: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a class of arguments; the value of a path is what lies there."""
    patterns = [pattern for names in HARMLESS.values() for pattern in names]
    for name in (item.name for item in fields(arguments) if item.init):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        value = getattr(arguments, name)
        if name == "deepspeed" and isinstance(value, (str, os.PathLike)):
            value = read_json(Path(value)) if Path(value).is_file() else value
        elif name in _CONTENTS and value is not None:
            if _CONTENTS[name] is checkpoint_contents:
                yield f"{name} processor", processor_contents(str(value))
            value = _CONTENTS[name](str(value))
        if isinstance(value, dict):
            yield from _flat(name, value)
        else:
            yield name, value


def _flat(name: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from _flat(f"{name}.{key}", value) if isinstance(value, dict) else [(f"{name}.{key}", value)]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def data_contents(path: str) -> str:
    """SHA-256 of a data file, or of all files of a folder."""
    if not Path(path).is_dir():
        return f"sha256 {sha256_file(path)}"
    return "sha256 of each file: " + " ".join(sha256_file(part) for part in sorted(Path(path).rglob("*.*")))


def _modules_contents(folder: str) -> str:
    return fingerprint(Path(folder, "region_modules.safetensors"))


_CONTENTS: dict[str, Callable[[str], str]] = {
    "data_path": data_contents,
    "model_name_or_path": checkpoint_contents,
    "vision_tower": checkpoint_contents,
    "pretrain_mm_mlp_adapter": lambda path: fingerprint(Path(path)),
    "region_modules": _modules_contents,
}
"""Argument -> what lies at its path; the path itself may differ."""
