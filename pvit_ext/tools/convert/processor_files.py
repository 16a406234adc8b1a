"""Files of a converted checkpoint's processor: tokenizer, image processor, chat template."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pvit_ext.config import CONFIG_KEY
from pvit_ext.hosts.llava.tokenizer import with_original_ids
from pvit_ext.hosts.transformers.placeholder import token_of
from pvit_ext.prompt import IMAGE_PLACEHOLDER
from pvit_ext.tools.convert.configs import pinpoints_of
from pvit_ext.tools.convert.tower import Tower

logger = logging.getLogger(__name__)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_CHATML = "chatml"
TEMPLATES = {
    "llava_llama": "{% if messages and messages[0]['role'] != 'system' %}{{ '"
    + _VICUNA.replace("'", "\\'")
    + "' }}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}"
    "{% endif %}" + _CONTENT + "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "llava_mistral": "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' }}" + _CONTENT + "{{ ' ' + eos_token }}"
    "{% else %}{{ '[INST] ' }}" + _CONTENT + "{{ ' [/INST]' }}{% endif %}{% endfor %}",
    _CHATML: "{% if messages and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nAnswer the questions.<|im_end|>' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}" + _CONTENT + "{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
"""LLaVA's conversation templates v1, mistral_instruct and chatml_direct, for transformers' chats."""
_OF_VERSION = {
    "v1": "llava_llama", "vicuna_v1": "llava_llama", "mistral_instruct": "llava_mistral", "chatml_direct": _CHATML,
    "mistral_direct": _CHATML,
}  # fmt: skip
"""LLaVA's names of templates, and keys of :data:`TEMPLATES`."""


def hub_tokenizer(folder: Path) -> tuple[Any, int]:
    """A LLaVA checkpoint's tokenizer with ``<image>`` and a padding token, and the id of ``<image>``."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    found = with_original_ids(AutoTokenizer.from_pretrained(folder))
    marks = {name: getattr(found, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    tokenizer: Any = PreTrainedTokenizerFast(  # kept as it is: LlamaTokenizer would build another one from its files
        tokenizer_object=found.backend_tokenizer,
        model_max_length=found.model_max_length,
        padding_side="left",
        **{name: mark for name, mark in marks.items() if mark is not None},
    )
    image_id = token_of(tokenizer, IMAGE_PLACEHOLDER)
    if tokenizer.pad_token in (None, tokenizer.unk_token):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer, image_id


def write_processor(folder: Path, host: Any, tower: Tower, tokenizer: Any, chat_template: str) -> None:
    """Write what ``AutoProcessor`` loads.

    Args:
        folder: of the converted checkpoint.
        host: LLaVA's config.
        tower: its vision tower.
        tokenizer: from :func:`hub_tokenizer`.
        chat_template: one of :data:`TEMPLATES`.
    """
    aspect = getattr(host, "image_aspect_ratio", None)
    images = {"anyres": "LlavaNext", "pad": "Llava"}.get(aspect or "", "CLIP")
    values = {**_plain(tower.images.to_dict()), "image_processor_type": f"{images}ImageProcessor"}
    if aspect == "pad":
        values["do_pad"] = True
    elif aspect == "anyres":
        values["image_grid_pinpoints"] = [[height, width] for width, height in pinpoints_of(host)]
    class_name = "LlavaNextProcessor" if aspect == "anyres" else "LlavaProcessor"
    patches = getattr(host, "mm_vision_select_feature", "patch") == "patch"
    processor = {
        "processor_class": class_name,
        "patch_size": tower.config.patch_size,
        "num_additional_image_tokens": 1,  # CLIP's class token, which the strategy "default" drops
        "vision_feature_select_strategy": "default" if patches else "full",
        "image_token": IMAGE_PLACEHOLDER,
    }
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    _write(folder / "preprocessor_config.json", {**values, "processor_class": class_name})
    _write(folder / "processor_config.json", processor)
    (folder / "chat_template.jinja").write_text(chat_template)


def template_kind(host: Any, tokenizer: Any) -> str:
    """The key in :data:`TEMPLATES` of the template that a checkpoint's regions were trained with, or of its kind's own.

    Args:
        host: LLaVA's config.
        tokenizer: of the checkpoint.
    """
    kind = "llava_mistral" if "mistral" in host.model_type else "llava_llama"
    if "<|im_start|>" in tokenizer.get_vocab():  # LLaVA-1.6 on Yi
        kind = _CHATML
    version = getattr(host, CONFIG_KEY, {}).get("conv_version")
    if version is not None and version not in _OF_VERSION:
        logger.warning(
            "the checkpoint was trained with LLaVA's conversation template %s, which is not written for transformers: "
            "chat_template.jinja is that of %s; put yours in its place", version, kind,
        )  # fmt: skip
    return _OF_VERSION.get(str(version), kind)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    dropped = ("image_processor_type", "processor_class", "feature_extractor_type", "_processor_class")
    return {key: value for key, value in values.items() if key not in dropped}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, default=dict) + "\n")
