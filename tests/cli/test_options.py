"""What commands list on the terminal."""

from __future__ import annotations

from pvit_ext.cli.options import flag_of, flags_of, list_settings
from pvit_ext.data.convert.base import Setting
from pvit_ext.plugins import Registry


class Format:
    about = "a format"
    settings = {"split": Setting("", "train (default) or val", ("", "train", "val"))}  # noqa: RUF012


def test_a_choice_that_is_empty_is_not_listed():
    registry = Registry("format", "nowhere")
    registry.add("mine", Format)
    assert list_settings(registry, 5) == "mine  a format\n        --set split=...: train (default) or val (train, val)"


def test_options_are_named_as_they_are_written():
    assert flag_of("image_folder") == "--image-folder"
    assert flags_of(["file", "dtype"]) == "--file, --dtype"
    assert flags_of(["file", "dtype"], {"file": "FILE"}) == "FILE, --dtype"
