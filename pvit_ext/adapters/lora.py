"""LoRA by LLaVA's flags: adapters on the language model only, and folders of adapters loaded again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.files import read_json
from pvit_ext.tokens.serialization import CONFIG_FILE

ADAPTER_CONFIG = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"
_PEFT_PREFIX = "base_model.model."


def find_all_linear_names(model: Any) -> str:
    """A pattern for exactly the linear layers of the language model's blocks; peft matches it against whole names.

    LLaVA's function of this name collects last names (``q_proj``), which a vision tower or an encoder has as well.

    Args:
        model: of either host, before peft wraps it.
    """
    root, prefix = model.base_model, model.base_model_prefix
    if (nested := getattr(root, "language_model", None)) is not None:  # transformers' own models
        root, prefix = nested, f"{prefix}.language_model"
    ours = {id(part) for name in _OURS for part in _modules_of(getattr(root, name, None))}
    names = [
        f"{prefix}.{name}"
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in ours
    ]
    return "|".join(sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names}))


def add_lora(model: Any, layers: str, arguments: Any) -> Any:
    """peft's wrapper around a model, with a new adapter.

    Args:
        model: to be trained.
        layers: pattern of the names of the layers that get one.
        arguments: with LLaVA's ``lora_r``, ``lora_alpha``, ``lora_dropout`` and ``lora_bias``.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        target_modules=layers,
        lora_dropout=arguments.lora_dropout,
        bias=arguments.lora_bias,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


_OURS = ("vision_tower", "mm_projector", "region_encoder", "region_projector")


def _modules_of(part: Any) -> list[nn.Module]:
    parts = part if isinstance(part, list) else [part]  # LLaVA wraps its tower in a list under FSDP
    return [module for one in parts if one is not None for module in one.modules()]


def check_adapter_files(folder: Path) -> bool:
    """Whether a folder of region modules holds a LoRA adapter too.

    Raises:
        FileNotFoundError: when one belongs to it and was never written.
    """
    if not read_json(Path(folder, CONFIG_FILE)).get("adapter"):
        return False
    if missing := [name for name in (ADAPTER_CONFIG, NON_LORA_FILE) if not Path(folder, name).is_file()]:
        raise FileNotFoundError(f"{folder} is what an interrupted LoRA run left, {missing} are missing: resume the run")
    return True


def merge_adapter(model: Any, folder: Path) -> Any:
    """Load what a LoRA run trained into its base model: whole weights first, then the adapter, merged.

    Raises:
        FileNotFoundError: when the adapter's weights are missing.
        ValueError: when the folder trains a tensor or a layer that the model lacks.
    """
    from peft import LoraConfig, PeftModel

    if (folder / NON_LORA_FILE).is_file():
        load_whole_weights(model, folder, _PEFT_PREFIX)
    config = LoraConfig.from_pretrained(str(folder))  # peft 0.4's PeftConfig knows no method's own fields
    config.target_modules = layers = _layers_of(folder)  # LLaVA's last names mean layers of the vision tower as well
    if unknown := sorted(layers - {name for name, _ in model.named_modules()}):
        raise ValueError(f"{folder} adapts layers that its base model lacks, such as {unknown[0]}: name another base")
    return PeftModel.from_pretrained(model, str(folder), config=config).merge_and_unload()


def _layers_of(folder: Path) -> set[str]:
    """Names in the base model of the layers that an adapter changes."""
    names = [name for name in ("adapter_model.safetensors", "adapter_model.bin") if (folder / name).is_file()]
    if not names:
        raise FileNotFoundError(f"{folder} has {ADAPTER_CONFIG}, but no adapter_model.safetensors or .bin: fetch it")
    keys = read_checkpoint(folder / names[0])
    return {key.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for key in keys if ".lora_" in key}


def load_whole_weights(model: Any, folder: str | Path, prefix: str = "") -> None:
    """Load what trained beside an adapter.

    Args:
        model: base model, or peft's wrapper around it.
        folder: with :data:`NON_LORA_FILE`.
        prefix: of the names in the file that those of the model lack.

    Raises:
        ValueError: when the folder trains a tensor that the model lacks.
    """
    state = {key.removeprefix(prefix): value for key, value in read_checkpoint(Path(folder, NON_LORA_FILE)).items()}
    unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{folder} trained tensors that its base model lacks: {sorted(unexpected)}")
