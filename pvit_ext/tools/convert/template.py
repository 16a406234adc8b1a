"""LLaVA's conversation template for a checkpoint of transformers, which brings a chat template of its own."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import TemplateError

from pvit_ext.files import read_json
from pvit_ext.hosts.transformers.dialogue import render_question
from pvit_ext.prompt import IMAGE_PLACEHOLDER

logger = logging.getLogger(__name__)
_FILES = ("chat_template.json", "processor_config.json", "tokenizer_config.json")


def conv_version_of(
    folder: Path, model_type: str, regions: Mapping[str, Any] | None, tokenizer_config: Path
) -> str | None:
    """The name of LLaVA's template that asks like a checkpoint's chat template; None, with a warning, where none does.

    Args:
        folder: of the checkpoint.
        model_type: LLaVA's, of the one that is written.
        regions: config of its region modules, the place for the name; None for a checkpoint without.
        tokenizer_config: file of the one that is written, which may have a chat template too.
    """
    if (template := template_of(folder)) is None:
        return None
    if importlib.util.find_spec("llava") is None:
        logger.warning(
            "%s: its chat template is left out, and cannot be compared with LLaVA's, because llava is not installed: "
            "name the one that asks alike with --conv-version NAME when you ask", folder,
        )  # fmt: skip
        return None
    from pvit_ext.hosts.llava.like import asked_by, names_asking, usual_name

    own, stored = _asked(_tokenizer(folder), template), (regions or {}).get("conv_version")
    known = usual_name(model_type, _template_in(tokenizer_config), stored)
    if (text := asked_by(known)) == own:
        return known
    names = [] if own is None else names_asking(own)
    if names and regions is not None:
        return names[0]
    if names:
        logger.warning(
            "%s: its chat template is LLaVA's %s, and a checkpoint without region modules has no place for that name: "
            "ask the new one with --conv-version %s (conv_version=), else it is asked with %s",
            folder, names[0], names[0], known,
        )  # fmt: skip
        return None
    logger.warning(
        "%s: none of LLaVA's conversation templates asks like its chat template, which %s; the new checkpoint "
        "is asked with LLaVA's %s, which writes %r: --conv-version NAME (conv_version=) takes another",
        folder, "refuses the conversation" if own is None else f"writes {own!r}", known, text,
    )  # fmt: skip
    return None


def template_of(folder: Path) -> str | None:
    """A checkpoint's chat template, from whichever of its files has it."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    return next((found for name in _FILES if (found := _template_in(folder / name))), None)


def _template_in(path: Path) -> str | None:
    """A chat template in a JSON file; of several, the one named ``default``."""
    found: Any = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}
    text: str | None = found.get("default") if isinstance(found, dict) else found
    return text


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _asked(tokenizer: Any, template: str) -> str | None:
    """The text in which a chat template asks LLaVA's probe, without the token that tokenizers put before it.

    A template for text alone, as Mistral's, gets its turns as text; None where a template refuses both.
    """
    from pvit_ext.hosts.llava.like import PROBE

    for form in (_as_parts, _as_text):

        def apply(messages: Any, form: Any = form, **options: Any) -> Any:
            return tokenizer.apply_chat_template(form(messages), chat_template=template, **options)

        try:
            text = render_question(SimpleNamespace(tokenizer=tokenizer, apply_chat_template=apply), PROBE, "the probe")
        except (TemplateError, TypeError):  # a text and a list cannot be joined
            continue
        if "{'type'" not in text:  # Python's spelling of the parts
            return text.removeprefix(tokenizer.bos_token or "")
    return None


def _as_parts(messages: Any) -> Any:
    return messages


def _as_text(messages: Any) -> Any:
    return [
        {**one, "content": "".join(part.get("text", f"{IMAGE_PLACEHOLDER}\n") for part in one["content"])}
        for one in messages
    ]
