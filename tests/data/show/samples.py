"""A small training file with every kind of region, several images, tasks, and text that would be markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

HOSTILE = """<script>document.title="run"</script><img src=x onerror=alert(1)>"'&amp;</article>"""


def record(name: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "a.png", "conversations": turns, **more}


RECORDS = [
    record("box", "<image>\nWhat is <region>?", "a red fish", regions=[[2, 3, 20, 30]], task="identify"),
    record("same", "<image>\nIs <region> a fish?", "yes", regions=[[2, 3, 20, 30]], task="identify"),
    record("mask", "<image>\nName <region>.", "sea grass", regions=[{"mask": "m.png"}], task="describe"),
    record(
        "many",
        "<image>\n<image>\nIs <region> like <region>, <region> or <region>?",
        "no",
        image=["a.png", "b.png"],
        regions=[
            {"point": [4, 4]},
            {"box": [1, 1, 9, 9], "image": 1},
            {"polygon": [[1, 1], [20, 1], [20, 20]]},
            {"scribble": [[1, 30], [30, 30]]},
        ],
        task="compare",
    ),
    record("image", "<image>\nWhat do you see?", "A long answer of more than a few words.", task="describe"),
    {"id": "text", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
    record(HOSTILE, f"<image>\n{HOSTILE} <region>", HOSTILE, regions=[[0, 0, 9, 9]], task=HOSTILE),
]


def write(folder: Path, records: list[Any] | None = None) -> Path:
    """The training file; its images lie in ``folder/images``."""
    images = folder / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (60, 40), "white").save(images / "a.png")
    Image.new("RGB", (20, 50), "white").save(images / "b.png")
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (10, 10, 30, 20))
    mask.save(images / "m.png")
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (RECORDS if records is None else records)))
    return path
