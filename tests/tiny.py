"""A tiny but real LLaVA checkpoint, built from config: LLaMA language model, CLIP tower, SentencePiece tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

# torch 2.0 has no float16 convolution on the CPU
_HALF_ON_CPU = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 1)
HALF_ON_CPU = pytest.mark.skipif(not _HALF_ON_CPU, reason="this torch does not compute in float16 on the CPU")
HALF_DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=HALF_ON_CPU)])

WORDS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What is in this picture? ASSISTANT: a cat and a dog, seven red "
    "blue digits. Which is larger, the first or the second? Describe the image. Compare these with those. "
    "0 1 2 3 4 5 6 7 8 9"
).split(" ")

TINY_REGIONCLIP = {
    "layers": [1, 1, 1, 1],
    "width": 8,
    "heads": 4,
    "output_dim": 24,
    "pool": 4,
    "shortest_edge": 64,
    "longest_edge": 128,
}


def build_tokenizer(folder: Path) -> None:
    """Train a SentencePiece model with a fixed seed and write the files that LLaVA's tokenizer needs."""
    import sentencepiece

    generator = torch.Generator().manual_seed(0)
    lines = [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (12,), generator=generator)) for _ in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build_neox_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer like that of MPT-chat: no token at the start, ``<|im_end|>`` behind each turn."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 20, vocab_size=328, special_tokens=["<|endoftext|>", "<|padding|>"])
    tokens = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=2048, **tokens)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "GPTNeoXTokenizer"}))


def build_tower(folder: Path, side: int = 28, **sizes: int) -> None:
    """A CLIP vision tower of 3 layers, 28x28 pixels in 7-pixel patches, with its image processor.

    Args:
        folder: exists.
        side: of its square, in pixels.
        sizes: of CLIP's config, in place of the tiny ones.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tiny = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 7,
    }
    config = CLIPVisionConfig(**tiny | sizes, image_size=side)
    CLIPVisionModel(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_normalize": True,
        "do_rescale": True,
        "do_convert_rgb": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def build_llava(folder: Path, family: str = "llama", tower_side: int = 28, **overrides: object) -> Path:
    """A LLaVA-1.5 checkpoint on LLaMA, ``mistral`` or ``mpt`` in ``folder``; its tower lies in ``folder/tower``."""
    from llava.model.language_model import llava_llama, llava_mistral, llava_mpt

    torch.manual_seed(0)
    tower = folder / "tower"
    tower.mkdir(parents=True)
    build_tower(tower, tower_side)
    (build_neox_tokenizer if family == "mpt" else build_tokenizer)(folder)
    config_class, model_class = {
        "llama": (llava_llama.LlavaConfig, llava_llama.LlavaLlamaForCausalLM),
        "mistral": (llava_mistral.LlavaMistralConfig, llava_mistral.LlavaMistralForCausalLM),
        "mpt": (llava_mpt.LlavaMptConfig, llava_mpt.LlavaMptForCausalLM),
    }[family]
    settings: dict[str, object] = {
        "vocab_size": 330,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mm_vision_tower": str(tower),
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 512,
        "use_mm_proj": True,
        **_LANGUAGE[family],
    }
    model = model_class(config_class(**(settings | overrides)))
    if hasattr(model.get_model(), "image_newline"):  # LLaVA makes it of uninitialised memory
        torch.nn.init.normal_(model.get_model().image_newline)
    model.save_pretrained(folder)
    return folder


_LLAMA: dict[str, object] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
_LANGUAGE: dict[str, dict[str, object]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpt": {
        **{"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 512, "tie_word_embeddings": False},
        **{"bos_token_id": 0, "eos_token_id": 0},
    },
}


def build_smol_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer like SmolLM2's: nothing added at the start, ``<|im_start|>`` as BOS, ChatML."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 20, vocab_size=330, special_tokens=special)
    tokens = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=2048, **tokens)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
