"""Which of LLaVA's conversation templates asks in a given text."""

from __future__ import annotations

from types import SimpleNamespace

from PIL import Image

from pvit_ext.hosts.llava.batch import build_prompt
from pvit_ext.hosts.llava.chat import template_named, trained_template, usual_template
from pvit_ext.prompt import IMAGE_PLACEHOLDER
from pvit_ext.tokens.query import Query

PROBE = (("user", f"{IMAGE_PLACEHOLDER}\nWhat is this?"), ("assistant", "A dog."), ("user", "And where?"))
"""(role, text) of each turn of a question that tells templates apart."""


def asked_by(name: str) -> str:
    """The text in which LLaVA's template of this name asks :data:`PROBE`; of ``plain``, its last question alone."""
    from llava.conversation import SeparatorStyle

    (_, first), (_, answer), (_, question) = PROBE
    template = template_named(name)
    is_plain = template.sep_style == SeparatorStyle.PLAIN  # it has no place for earlier turns
    query = Query(Image.new("RGB", (1, 1)), question, history=[] if is_plain else [(first, answer)])
    bare = SimpleNamespace(region_module=None, config=SimpleNamespace())
    return build_prompt(query, template, "the probe", bare).texts[0]


def names_asking(text: str) -> list[str]:
    """Names of the templates that ask :data:`PROBE` in this text; ``v0`` is none, under which LLaVA trains another."""
    from llava.conversation import conv_templates

    return [name for name in conv_templates if name != "v0" and asked_by(name) == text]


def usual_name(model_type: str, chat_template: str | None, stored: str | None) -> str:
    """The name of the template that a model is asked with where the user names none.

    Args:
        model_type: of LLaVA's config.
        chat_template: of its tokenizer.
        stored: in the config of its region modules.
    """
    if stored:
        return trained_template(stored)
    return usual_template(model_type, SimpleNamespace(chat_template=chat_template))
