"""A file of annotations, and the command line on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (64, 48)
CAPTIONS = ["A brown dog lies next to an orange ball.", "A dog and a ball below a red stop sign."]


def scene(name: str = "s1", **other: Any) -> dict[str, Any]:
    """A dog, a ball and a sign with STOP on it."""
    return {
        "id": name,
        "image": "s1.jpg",
        "regions": [[8, 16, 32, 40], {"box": [36, 28, 48, 40]}, [40, 4, 60, 16]],
        "labels": ["dog", "ball", "sign"],
        "attributes": [["brown"], ["orange"], []],
        "texts": [None, None, "STOP"],
        "captions": CAPTIONS,
        "relations": [[0, "lies next to", 1]],
        **other,
    }


def write_scenes(folder: Path, *scenes: dict[str, Any]) -> Path:
    """``scenes.jsonl`` with its image beside it."""
    if not (folder / "s1.jpg").exists():
        Image.new("RGB", SIZE, (90, 120, 60)).save(folder / "s1.jpg")
    path = folder / "scenes.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in scenes))
    return path


def command(folder: Path, url: str, *options: str) -> list[str]:
    """The words behind ``pvit-ext`` for the file of :func:`write_scenes`."""
    words = ["data", "generate", str(folder / "scenes.jsonl"), "--image-folder", str(folder), "--base-url", url]
    for flag, value in (("--out", str(folder / "out.jsonl")), ("--model", "m")):
        words += [] if flag in options else [flag, value]
    return [*words, *options]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
