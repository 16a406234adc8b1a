"""One example for each task, made up for this purpose: what a document looks like, and what is wanted."""

from __future__ import annotations

from typing import Any


def _region(number: int, box: list[float], **known: Any) -> dict[str, Any]:
    return {"name": f"[R{number}]", **known, "box": box}


def _reply(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"turns": [{"question": question, "answer": answer} for question, answer in turns]}


_KITCHEN = {
    "captions": ["A woman in a red apron stirs a pot on the stove.", "A cat watches a woman who is cooking."],
    "regions": [
        _region(1, [0.31, 0.12, 0.62, 0.94], label="woman"),
        _region(2, [0.55, 0.44, 0.71, 0.58], label="pot"),
        _region(3, [0.12, 0.7, 0.27, 0.92], label="cat"),
        _region(4, [0.93, 0.05, 0.96, 0.11], label="clock"),
    ],
}
_STREET = {
    "captions": ["Two bicycles lean against a wall, one of them under a window."],
    "regions": [
        _region(1, [0.08, 0.51, 0.38, 0.9], label="bicycle", attributes=["blue", "old"]),
        _region(2, [0.57, 0.49, 0.9, 0.91], label="bicycle", attributes=["white"]),
        _region(3, [0.6, 0.1, 0.85, 0.4], label="window"),
        _region(4, [0.15, 0.2, 0.4, 0.3], label="sign", written="BAKERY"),
    ],
}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small_objects": (
        {**_KITCHEN, "ask_about": ["[R4]"]},
        _reply(("What is the little thing at [R4], and where does it hang?", "A clock, in the upper right corner.")),
    ),
    "same_category": (
        {**_STREET, "ask_about": ["[R1]", "[R2]"]},
        _reply(("Which of the two is [R2]?", "It is the white bicycle, the right one, which leans under the window.")),
    ),
    "relationship": (
        {**_KITCHEN, "relations": [["[R1]", "stirs", "[R2]"]]},
        _reply(("What does [R1] do with [R2]?", "She stands at the stove and stirs the pot.")),
    ),
    "attribute": (_STREET, _reply(("What is [R1] like?", "It is an old, blue bicycle."))),
    "ocr": (
        {**_STREET, "ask_about": ["[R4]"]},
        _reply(("What kind of shop does [R4] announce?", 'The sign says "BAKERY", so bread is sold there.')),
    ),
    "multi_turn": (
        _KITCHEN,
        _reply(
            ("Who is [R1]?", "A woman in a red apron."),
            ("What is she busy with at [R2]?", "She is stirring the pot on the stove."),
            ("What is [R3], and where does it sit as seen from [R1]?", "It is a cat, on the floor to the left of her."),
        ),
    ),
    "questions": (
        {**_KITCHEN, "description": "A woman in a red apron cooks in her kitchen while a cat watches from the floor."},
        _reply(
            ("What is [R1] wearing?", "She wears a red apron."),
            ("Why might [R3] be looking up?", "It watches the woman, who is cooking."),
            ("What happens at [R2]?", "A meal is being cooked: the woman stirs what is in the pot."),
        ),
    ),
}
