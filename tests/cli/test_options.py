"""What commands list on the terminal."""

from __future__ import annotations

from pvit_ext.cli.options import list_settings
from pvit_ext.data.convert.base import Setting
from pvit_ext.plugins import Registry


class Format:
    about = "a format"
    settings = {"split": Setting("", "train (default) or val", ("", "train", "val"))}  # noqa: RUF012


def test_a_choice_that_is_empty_is_not_listed():
    registry = Registry("format", "nowhere")
    registry.add("mine", Format)
    assert list_settings(registry, 5) == "mine  a format\n        --set split=...: train (default) or val (train, val)"
