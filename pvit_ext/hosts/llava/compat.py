"""What LLaVA 1.2.2 needs to train on today's libraries, and nothing else: small shims, each detected by feature.

A shim changes a library only where the feature it stands in for is missing, and says since when. Measured with
transformers 5.23, accelerate 1.15, deepspeed 0.19.8 (November 2026). Importing LLaVA's models needs none of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from pvit_ext.hosts.llava import cpu_launch

logger = logging.getLogger(__name__)


def prepare_training() -> None:
    """Apply every shim that this machine and these versions need; call before ``llava.train`` is imported."""
    layernorm_names()
    mpt_attention_items()
    rng_state_is_safe()
    deepspeed_resumes_adapters()
    zero3_bucket_is_integer()
    if not torch.cuda.is_available():
        cpu_launch.cpu_deepspeed_shm_op()
        cpu_launch.cpu_deepspeed_backend()


def layernorm_names() -> None:
    """transformers 5 dropped ``trainer.ALL_LAYERNORM_LAYERS``, which llava_trainer imports to spare norms weight decay.

    The list that 5.x keeps elsewhere lacks the RMSNorms of LLaMA and Mistral; they would be decayed (23/2 groups of
    parameters instead of 18/7 on a 2-layer LLaMA).
    """
    import transformers.trainer
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm

    if not hasattr(transformers.trainer, "ALL_LAYERNORM_LAYERS"):
        norms = [torch.nn.LayerNorm, LlamaRMSNorm, MistralRMSNorm]
        setattr(transformers.trainer, "ALL_LAYERNORM_LAYERS", norms)  # noqa: B010


def rng_state_is_safe() -> None:
    """torch 2.6 loads only tensors unless told to; transformers 4.37 does not tell it of numpy's random state."""
    import numpy as np
    import transformers.trainer

    if hasattr(torch.serialization, "add_safe_globals") and not hasattr(transformers.trainer, "safe_globals"):
        state = np.zeros(1, dtype=np.uint32)
        rebuild: Any = state.__reduce__()[0]
        torch.serialization.add_safe_globals([rebuild, np.ndarray, np.dtype, type(state.dtype)])


def deepspeed_resumes_adapters() -> None:
    """transformers 4.37 leaves frozen weights out of peft's DeepSpeed checkpoints, and then insists on finding them."""
    import transformers.trainer

    stock = transformers.trainer.deepspeed_load_checkpoint
    if "load_module_strict" in inspect.signature(stock).parameters:
        return

    def load(engine: Any, path: str, load_module_strict: bool = True) -> None:
        if hasattr(engine.module, "peft_config"):
            engine.load_checkpoint = functools.partial(engine.load_checkpoint, load_module_strict=False)
        stock(engine, path)

    transformers.trainer.deepspeed_load_checkpoint = load


def zero3_bucket_is_integer() -> None:
    """transformers 4.36 and 4.37 fill "auto" for ZeRO-3's prefetch bucket with a float, which DeepSpeed refuses."""
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config: Any = HfTrainerDeepSpeedConfig
    stock = config.fill_only
    if hasattr(stock, "stock"):
        return

    def fill_only(self: Any, key: str, value: Any) -> None:
        stock(self, key, int(value) if key.endswith("_bucket_size") else value)

    fill_only.stock = stock  # type: ignore[attr-defined]
    config.fill_only = fill_only


def mpt_attention_items() -> None:
    """LLaVA's ``train()`` writes ``config.attn_config["attn_impl"]``: a dict of MosaicML's, a class in transformers."""
    from transformers.models.mpt.configuration_mpt import MptAttentionConfig

    if not hasattr(MptAttentionConfig, "__setitem__"):
        setattr(MptAttentionConfig, "__setitem__", MptAttentionConfig.__setattr__)  # noqa: B010


_RENAMED_FLAGS = {"--evaluation_strategy": "--eval_strategy", "--eval_strategy": "--evaluation_strategy"}
_WARMUP_RATIO, _WARMUP_STEPS = "--warmup_ratio", "--warmup_steps"


def known_flags(arguments: Sequence[str], known: set[str]) -> list[str]:
    """Map flags that this transformers lacks, old or new, to the ones that it has, with a warning.

    Args:
        arguments: command line.
        known: field names of transformers' TrainingArguments.
    """
    words = [word for argument in arguments for word in _split_flag(argument)]
    for old, new in _RENAMED_FLAGS.items():
        if old in words and old[2:] not in known and new[2:] in known:
            warnings.warn(f"{old} is {new} in this transformers; mapped", stacklevel=2)
            words = [new if word == old else word for word in words]
    if _WARMUP_RATIO in words and "warmup_ratio" not in known:
        # transformers 5: warmup_steps below 1 is a ratio of all steps
        warnings.warn("--warmup_ratio is --warmup_steps below 1 in this transformers; mapped", stacklevel=2)
        words = [_WARMUP_STEPS if word == _WARMUP_RATIO else word for word in words]
    for index, word in enumerate(words[:-1]):
        if word == _WARMUP_STEPS and "warmup_ratio" in known and _is_fraction(words[index + 1]):
            words[index] = _WARMUP_RATIO
    return words


def _is_fraction(text: str) -> bool:
    """Whether it is a number between 0 and 1; what is no number is the parser's to refuse."""
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def _split_flag(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument]


def trainer_keywords(trainer_class: type, keywords: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 calls the Trainer's ``tokenizer`` ``processing_class``."""
    parameters = inspect.signature(trainer_class).parameters
    if "tokenizer" in keywords and "tokenizer" not in parameters:
        keywords = {**keywords, "processing_class": keywords["tokenizer"]}
        del keywords["tokenizer"]
    return keywords


def rest_of_epoch_is_a_step(trainer: Any) -> bool:
    """Whether the remaining micro-batches of an epoch make an optimizer step, and count as one on resuming.

    They do in transformers 5. 4.36 and 4.37 take them over into the next epoch, but resume as if each epoch began with
    a step: losses differed where accumulation does not divide an epoch (4.37.2, 4 micro-batches in steps of 3).
    """
    plan = getattr(trainer, "set_initial_training_values", None)
    if plan is None:
        return False
    arguments: list[Any] = [trainer.args, [None] * (trainer.args.gradient_accumulation_steps + 1)]
    arguments += [1] * (len(inspect.signature(plan).parameters) - len(arguments))  # once the total batch size as well
    steps: int = plan(*arguments)[1]
    return steps > 1


def default_dtype_is_float32(keywords: dict[str, Any]) -> dict[str, Any]:
    """``torch_dtype=None`` meant float32 for LLaVA; in transformers 5 it means the checkpoint's own dtype."""
    if "torch_dtype" in keywords and keywords["torch_dtype"] is None:
        return {**keywords, "torch_dtype": torch.float32}
    return keywords


@functools.cache
def cache_name(forward: Any) -> str:
    """What a language model's forward calls its keys and values: transformers 5.24 renamed ``past_key_values``."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def missing_keys(model: Any, info: dict[str, Any]) -> list[str]:
    """Names of what ``from_pretrained`` did not find: its own list, and what has no value.

    transformers 4.36 and 4.37 compare storages on the meta device, where all of one size are alike: a missing tensor
    counts as tied to another that is there, and is neither reported nor initialised.
    """
    if getattr(model, "hf_device_map", None):  # then a parameter on the meta device lies on the disk
        return list(info["missing_keys"])
    return [*info["missing_keys"], *(name for name, parameter in model.named_parameters() if parameter.is_meta)]


@contextlib.contextmanager
def vision_tower_from_config() -> Iterator[None]:
    """LLaVA reads the tower of a LLaVA-1.6 (``unfreeze_mm_vision_tower``) from its own file while it makes the model.

    transformers 5 makes models on the meta device, and refuses to read a file there. The checkpoint fills the tower in
    the end, so it is built empty, like all else. Older versions read the file, and then the checkpoint.
    """
    if torch.empty(0).device.type != "meta":
        yield
        return
    encoder = importlib.import_module("llava.model.multimodal_encoder.clip_encoder")
    with _one_at_a_time:  # a second thread would take the first one's replacement for the stock class, and keep it
        stock = encoder.CLIPVisionModel

        def empty(path: str, **_: Any) -> Any:
            return stock(encoder.CLIPVisionConfig.from_pretrained(path))

        encoder.CLIPVisionModel = SimpleNamespace(from_pretrained=empty)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            encoder.CLIPVisionModel = stock  # type: ignore[attr-defined]


_one_at_a_time = threading.Lock()


def local_rank(arguments: Any) -> int:
    """The rank on this node, which transformers 5 leaves at -1 in ``TrainingArguments.local_rank`` under a launcher."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else arguments.local_rank


def fit_zero3(model: Any) -> None:
    """Make a model with regions fit for ZeRO-3, before DeepSpeed's engine takes it.

    Parameters made outside ``zero.Init`` (projectors, LoRA, region modules) stay float32 in a bf16 model, which ends in
    a dtype or ``defragment`` error at the first step (seen on deepspeed 0.12 to 0.19). An encoder runs its tower once
    per image size, so ranks make different numbers of passes, and the gathering inside it deadlocks (2 gloo ranks,
    mixed sizes): as a leaf module it is gathered whole, once a step. An encoder that trains must run its modules
    equally often on every rank.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return
    for parameter in model.parameters():
        if not hasattr(parameter, "ds_id") and parameter.is_floating_point():
            parameter.data = parameter.data.to(model.get_input_embeddings().weight.dtype)
    import deepspeed.utils

    encoder = model.region_module.region_encoder
    if not encoder.frozen:
        return  # a leaf that trains is not gathered for its backward pass: sizes 0 and 32 (deepspeed 0.19.8, 2 ranks)
    if hasattr(deepspeed.utils, "set_z3_leaf_modules"):
        deepspeed.utils.set_z3_leaf_modules(model, [type(encoder)])
    else:
        logger.warning(
            "this DeepSpeed has no leaf modules: ZeRO-3 hangs when ranks see different numbers of image sizes"
        )


def own_storage(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of the tensors that are views of a larger buffer, as ZeRO-3 gathers them on a CPU.

    transformers 4.36 and 4.37 take views of one buffer for one shared tensor and save the first of them only.
    """
    return {
        key: value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
        for key, value in state.items()
    }


def drop_empty_groups(optimizer: Any) -> None:
    """LLaVA makes a group of parameters for each purpose; DeepSpeed drops empty ones, and then the schedule fails.

    Seen with transformers 4.37: LoRA with ``--mm_projector_lr``.
    """
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def report_to_none(arguments: Any) -> None:
    """Unless told otherwise, transformers 4 reports to every tracker that is installed; transformers 5 to none."""
    if arguments.report_to is None:
        arguments.report_to = "none"


def refuse_cpu_fsdp(arguments: Any) -> None:
    """Raise ValueError for ``--fsdp`` without an accelerator, where accelerate replicates the model without a word.

    Call it before transformers reads the flag and puts it into the environment of the process.
    """
    if arguments.fsdp and not torch.cuda.is_available():
        raise ValueError("--fsdp shards nothing on a CPU, accelerate then runs plain data parallel: use ZeRO-3 instead")


def fsdp_as_list(arguments: Any) -> None:
    """transformers 5 makes ``fsdp`` a bool, whose length LLaVA asks for; the plugin is made by then, so a list will do.

    With an empty list LLaVA leaves its tower where it is. With any other it expects the tower in a list, but a LLaVA
    checkpoint's is not (``'CLIPVisionTower' object is not subscriptable``, llava_arch.py).
    """
    if isinstance(arguments.fsdp, bool):
        arguments.fsdp = []
