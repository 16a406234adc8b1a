"""Tiny models of each family of transformers with their real processors, from config alone.

The image processors are those that transformers takes here. Without torchvision, processors that take videos too get a
stand-in for those.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from pvit_ext.hosts.transformers.images_only import pixtral_on_pil, video_stand_in, without_torchvision

ROWS = 320
WORDS = (
    "what is in where the a of and colour answer red green blue yellow yes no USER : ASSISTANT ? . , digit which larger"
    " left right cat dog 0 1 2 3 4 5 6 7 8 9"
).split()
CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% elif c['type'] == 'text' %}{{ c['text'] }} "
    "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)
QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
Pair = tuple[Any, Any]


def tokenizer(specials: Sequence[str]) -> Any:
    """Words of one token each; padding on the left."""
    names = ["<unk>", "<s>", "</s>", "<pad>", *specials]
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*names, *WORDS])}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        additional_special_tokens=list(specials),
    )


def text_config(**changes: Any) -> dict[str, Any]:
    """A language model of two layers, with spare rows in its embedding."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    return {"vocab_size": ROWS, "num_key_value_heads": 2, "max_position_embeddings": 8192} | sizes | ids | changes


_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def clip(size: int, patch: int) -> Any:
    """A CLIP tower's config."""
    return transformers.CLIPVisionConfig(**_TOWER, image_size=size, patch_size=patch, projection_dim=32)


def siglip(size: int, patch: int) -> Any:
    """A SigLIP tower's config."""
    return transformers.SiglipVisionConfig(**_TOWER, image_size=size, patch_size=patch)


def image_processor(module: str, name: str, **values: Any) -> Any:
    """An image processor as transformers loads it here: on torchvision where that is installed, else on PIL."""
    pil = "" if importlib.util.find_spec("torchvision") else "pil_"
    found = importlib.import_module(f"transformers.models.{module}.image_processing_{pil}{module}")
    return getattr(found, f"{name}Pil" if pil else name)(**values)


def llava(size: int = 28, patch: int = 7, tower: Any = clip, pad: bool = False, rows: int = ROWS) -> Pair:
    """LLaVA-1.5, with a CLIP tower (crop, or padded square) or a SigLIP one."""
    torch.manual_seed(0)
    words, square = tokenizer(["<image>"]), {"height": size, "width": size}
    if tower is siglip:
        images = image_processor("siglip", "SiglipImageProcessor", size=square)
    else:
        name = ("llava", "LlavaImageProcessor") if pad else ("clip", "CLIPImageProcessor")
        more = {"do_pad": True} if pad else {}
        images = image_processor(*name, size={"shortest_edge": size}, crop_size=square, **more)
    strategy = "default" if tower is clip else "full"
    processor = transformers.LlavaProcessor(
        images,
        words,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        chat_template=CHAT.replace("IMAGE", "<image> "),
        num_additional_image_tokens=int(tower is clip),
    )
    config = transformers.LlavaConfig(
        vision_config=tower(size, patch),
        text_config=transformers.LlamaConfig(**text_config(vocab_size=rows)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
    )
    return transformers.LlavaForConditionalGeneration(config).eval(), processor


def pixtral(patch: int = 7) -> Pair:
    """Pixtral: LLaVA with a tower that packs images of any size."""
    torch.manual_seed(0)
    words = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    sides = {"height": patch, "width": patch}
    images = image_processor("pixtral", "PixtralImageProcessor", size={"longest_edge": 112}, patch_size=sides)
    template = CHAT.replace("IMAGE", "[IMG]")
    processor = _processor("pixtral", "PixtralProcessor")(images, words, patch_size=patch, chat_template=template)
    config = transformers.LlavaConfig(
        vision_config=transformers.PixtralVisionConfig(**_TOWER, head_dim=8, image_size=112, patch_size=patch),
        text_config=transformers.MistralConfig(**text_config()),
        image_token_id=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return transformers.LlavaForConditionalGeneration(config).eval(), processor


def llava_next(size: int = 28, patch: int = 7) -> Pair:
    """LLaVA-NeXT: a base view and tiles."""
    torch.manual_seed(0)
    pinpoints = [[size * rows, size * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    words, square = tokenizer(["<image>"]), {"height": size, "width": size}
    images = image_processor(
        "llava_next",
        "LlavaNextImageProcessor",
        size={"shortest_edge": size},
        crop_size=square,
        image_grid_pinpoints=pinpoints,
    )
    processor = transformers.LlavaNextProcessor(
        images,
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT.replace("IMAGE", "<image> "),
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaNextConfig(
        vision_config=clip(size, patch),
        text_config=transformers.MistralConfig(**text_config()),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=pinpoints,
    )
    return transformers.LlavaNextForConditionalGeneration(config).eval(), processor


def llava_onevision(size: int = 28, patch: int = 7) -> Pair:
    """LLaVA-OneVision: a base view and many tiles, from a SigLIP tower."""
    torch.manual_seed(0)
    pinpoints = [[size * rows, size * columns] for rows in range(1, 7) for columns in range(1, 7)]
    words = tokenizer(["<image>", "<video>"])
    images = image_processor(
        "llava_onevision",
        "LlavaOnevisionImageProcessor",
        size={"height": size, "width": size},
        image_grid_pinpoints=pinpoints,
    )
    shared = {"vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    processor = _processor("llava_onevision", "LlavaOnevisionProcessor")(
        images,
        words,
        video_processor=_no_videos(),
        num_image_tokens=(size // patch) ** 2,
        chat_template=CHAT.replace("IMAGE", "<image> "),
        **shared,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=siglip(size, patch),
        text_config=transformers.Qwen2Config(**text_config()),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=pinpoints,
        **shared,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config).eval(), processor


def qwen2_vl(patch: int = 14) -> Pair:
    """Qwen2-VL."""
    vision = {"depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
    return _qwen("qwen2_vl", "Qwen2VL", patch, vision)


def qwen2_5_vl(patch: int = 14) -> Pair:
    """Qwen2.5-VL, whose tower's layers see windows."""
    window = {"window_size": 112, "fullatt_block_indexes": [2]}
    vision = dict(depth=4, hidden_size=32, intermediate_size=64, num_heads=4, out_hidden_size=64, **window)
    return _qwen("qwen2_5_vl", "Qwen2_5_VL", patch, vision)


def qwen3_vl(patch: int = 16) -> Pair:
    """Qwen3-VL, whose language model reads several layers of the tower."""
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    vision = dict(depth=3, hidden_size=32, intermediate_size=64, num_heads=4, out_hidden_size=64, **deep)
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return _qwen("qwen3_vl", "Qwen3VL", patch, vision, grey, head_dim=16, interleaved=True)


def _qwen(
    module: str,
    name: str,
    patch: int,
    vision: dict[str, Any],
    images: dict[str, Any] | None = None,
    interleaved: bool = False,
    **text: Any,
) -> Pair:
    torch.manual_seed(0)
    words = tokenizer(QWEN)
    limits = {"shortest_edge": (4 * patch) ** 2, "longest_edge": (2 * patch) ** 2 * 120}
    of_images = image_processor("qwen2_vl", "Qwen2VLImageProcessor", patch_size=patch, size=limits, **images or {})
    processor = _processor(module, f"{name}Processor")(
        of_images,
        words,
        video_processor=_no_videos(merge_size=2, temporal_patch_size=2),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]} | ({"mrope_interleaved": True} if interleaved else {})
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = getattr(transformers, f"{name}Config")(
        vision_config=dict(patch_size=patch, spatial_merge_size=2, temporal_patch_size=2, **vision),
        text_config=text_config(rope_parameters=rope, **text),
        **dict(zip(keys, words.convert_tokens_to_ids(QWEN), strict=True)),
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval(), processor


ZOO: dict[str, Callable[[], Pair]] = {
    "llava": llava,
    "llava_pad": lambda: llava(pad=True),
    "llava_siglip": lambda: llava(tower=siglip),
    "pixtral": pixtral,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
}


def prompt(processor: Any, text: str) -> str:
    """A text with one image before it, in the processor's own image placeholder."""
    token = processor.image_token
    return f"<|vision_start|>{token}<|vision_end|>{text}" if token == "<|image_pad|>" else f"{token} {text}"


def _processor(module: str, name: str) -> Callable[..., Any]:
    """Makes a processor, also one that would ask for torchvision."""
    if importlib.util.find_spec("torchvision") is not None:
        return getattr(importlib.import_module(f"transformers.models.{module}.processing_{module}"), name)

    def make(*args: Any, **kwargs: Any) -> Any:
        with pixtral_on_pil():
            found = importlib.import_module(f"transformers.models.{module}.processing_{module}")
        with without_torchvision():
            return getattr(found, name)(*args, **kwargs)

    return make


def _no_videos(**values: Any) -> Any:
    """A video processor for processors that want one."""
    return video_stand_in({**values, "video_processor_type": "BaseVideoProcessor"})
