"""Each option of each command, and each setting, stands on the page of its command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from pvit_ext import cli
from pvit_ext.data.convert.base import FORMATS
from pvit_ext.evaluation.task import TASKS
from pvit_ext.plugins import Registry
from pvit_ext.training.arguments import DataFlags, ModelFlags, TrainingFlags
from tests.pages import text_of

PAGES = {
    "": ("install", "troubleshooting", "own-encoder"),
    "ask": ("asking", "batch", "lion-tags", "lion"),
    "compare": ("../examples/compare/README",),
    "convert": ("swapping", "hosts"),
    "convert-checkpoint": ("swapping",),
    "data cache": ("cache",),
    "data check": ("data",),
    "data convert": ("convert", "tasks"),
    "data generate": ("generate",),
    "data mix": ("tasks",),
    "data show": ("show",),
    "data split": ("data",),
    "data tags": ("lion-tags",),
    "demo": ("demo",),
    "doctor": ("install",),
    "eval": ("evaluation",),
    "merge": ("swapping", "lora"),
    "plan": ("plan",),
    "recipes": ("install", "training"),
    "serve": ("serving",),
    "swap": ("swapping", "lion", "lion-tags", "lion-aggregator"),
}
"""Command -> its pages below docs/."""
TRAINING = ("training", "tracking", "lora", "lion", "lion-tags", "lion-aggregator", "cache")


def options(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each option's command, and its names; what --help hides is no option of users'."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from options(one, f"{command} {name}".strip())
        elif action.option_strings and action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            yield command, action.option_strings


def on(pages: tuple[str, ...], names: list[str]) -> bool:
    text = "\n".join(text_of(f"docs/{page}.md") for page in pages)
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)


def test_each_option_is_on_the_page_of_its_command() -> None:
    missing = [(command, *names) for command, names in options(cli.build_parser()) if not on(PAGES[command], names)]
    assert not missing


def test_each_flag_of_training_is_on_a_page() -> None:
    names = [item.name for kind in (ModelFlags, DataFlags, TrainingFlags) for item in fields(kind)]
    assert not [name for name in names if not on(TRAINING, [f"--{name}"])]


@pytest.mark.parametrize(("registry", "page"), [(TASKS, "evaluation"), (FORMATS, "convert")])
def test_each_setting_is_on_the_page(registry: Registry[Any], page: str) -> None:
    text = text_of(f"docs/{page}.md")
    kinds = {name: registry.require(name) for name in registry.names()}
    missing = [
        (name, setting)
        for name, kind in kinds.items()
        for setting in kind.settings
        if kind.__module__.startswith("pvit_ext.")  # other tests register their own
        and not re.search(rf"\b{setting}=|`{setting}`", text)
    ]
    assert kinds
    assert not missing
