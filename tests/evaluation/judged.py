"""Made-up files in the layouts of judged benchmarks, and a judge that says what a test tells it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pvit_ext import cli

MASK = {"size": [40, 60], "counts": [205, 10, 30, 10, 30, 10, 2105]}
"""Columns 5 to 7, rows 5 to 14."""
FUR = [["No fur is told of.", 0], ["Fur, without a colour.", 0.5], ["White fur.", -1], ["Brown fur.", 1]]
POSE = [["It runs.", -1], ["No pose is told of.", 0], ["It lies.", 1]]
LEASH = [["A leash is told of.", -1], ["No leash is told of.", 1]]
CLAWS = [["No claws are told of.", 1], ["Claws are told of.", -1], ["There is no dog in it.", 0]]
CUP = [["It is white.", 1], ["It is red.", -1], ["No colour.", 0]]
QA = {
    "501": [(FUR, "positive"), (POSE, "positive"), (LEASH, "negative"), (CLAWS, "negative")],
    "502": [(CUP, "positive"), (LEASH, "negative")],
}
CAPTIONS = {"501": "A dog with brown fur. Its claws are long.", "502": "A white vase."}
REPLIES = {
    "501": ["A. Yes", "D. Brown fur.", "I cannot tell.", "B. No leash is told of.", "B"],
    "502": ["B. No", "A. It is white.", "B. No leash is told of."],
}
"""The object of 502 is not recognised; the second question about 501 has no readable reply."""


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, values: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def dlc_bench(folder: Path) -> Path:
    """DLC-Bench of two objects, with its images and, as stored.json, judged outputs."""
    qa = {
        id: [
            {"question": f"Which fits {number}?", "choices": choices, "type": kind}
            for number, (choices, kind) in enumerate(some)
        ]
        for id, some in QA.items()
    }
    write_json(folder / "qa.json", qa)
    write_json(folder / "class_names.json", {"501": "dog", "502": "cup/mug"})
    images = [{"id": 9, "width": 60, "height": 40, "file_name": "9.png"}]
    common = {"iscrowd": 0, "image_id": 9, "category_id": 1, "bbox": [5, 5, 3, 10], "area": 30.0, "segmentation": MASK}
    objects = [common | {"id": 501, "size": "S", "frequency": "F"}, common | {"id": 502, "size": "S", "frequency": "C"}]
    write_json(
        folder / "annotations.json", {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]}
    )
    Image.new("RGB", (60, 40), (250, 0, 0)).save(folder / "9.png")
    write_json(folder / "captions.json", CAPTIONS)
    stored = {id: _stored(id, qa[id]) for id in QA}
    write_json(folder / "stored.json", {**stored, "avg_pos": 0.25, "avg_neg": 0.0})
    return folder


def _stored(id: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    recognition = {"question": f"Is it {id}?", "choices": [["Yes", "correct"], ["No", "incorrect"]]}
    found: dict[str, list[Any]] = {"recognition": [], "positive": [], "negative": []}
    for question, reply in zip([recognition, *questions], REPLIES[id], strict=True):
        found[question.get("type", "recognition")].append(question | {"pred_answer": reply})
    prompt = f"RULES\n{CAPTIONS[id]}\nQ:\nIs it {id}?\nA. Yes\nB. No\n"
    names = {"recognition": "details_recognition", "positive": "details_positives", "negative": "details_negatives"}
    return {"pred": CAPTIONS[id], "prompt": [prompt], **{names[kind]: some for kind, some in found.items()}}


def gar_captions(folder: Path) -> Path:
    """Three items of GAR-Bench's simple captions, with stored.json of a judge's replies."""
    items = [
        {
            "image": "9.png",
            "mask_rles": [MASK, MASK],
            "question": f"How do <Prompt1> and <Prompt0> relate ({number})?",
            "answer": text,
        }
        for number, text in enumerate(["<Prompt1> is above <Prompt0>.", "<Prompt0> is left of <Prompt1>.", "Same."])
    ]
    Image.new("RGB", (60, 40), (250, 0, 0)).save(folder / "9.png")
    said = ["<Prompt1> is above <Prompt0>.", "Right of it.", "The same."]
    answered = [{**one, "image": "elsewhere.png", "model_output": text} for one, text in zip(items, said, strict=True)]
    write_json(folder / "answered.json", answered)
    judged = [{**one, "eval_result": text} for one, text in zip(answered, ["True", "False", "True."], strict=True)]
    write_json(folder / "stored.json", judged)
    return write_json(folder / "GAR-Bench-Caption-Simple.json", items)


def ferret_bench(folder: Path) -> Path:
    """Ferret-Bench of three questions, with answers.jsonl of a model and reviews.jsonl of a judge."""
    rule = {"role": "Assistant", "prompt": "Rate both from 1 to 10. First line: two numbers."}
    data = folder / "ferret_gpt4_data"
    write_json(data / "rule.json", dict.fromkeys(("refer_desc", "refer_reason", "ground_conv"), rule))
    texts = {"refer_caption": "What is at [0.125, 0.25, 0.500, 1.000] here?", "ground_conv": "Where is the dog?"}
    for name, count in (("refer_caption", 2), ("ground_conv", 1)):
        category = "refer_desc" if name == "refer_caption" else name
        common = [{"question_id": 2 * k, "image": f"{k}.png", "category": category} for k in range(count)]  # with gaps
        write_lines(data / name / "question.jsonl", [one | {"text": texts[name]} for one in common])
        write_lines(data / name / "answer.jsonl", [one | {"text": f"Reference {k}."} for k, one in enumerate(common)])
        write_lines(data / name / "context.jsonl", [one | {"text": f"Objects of {k}."} for k, one in enumerate(common)])
    said = [
        ("refer_desc", 0, "A dog [1, 2, 3, 4]."),
        ("refer_desc", 1, "A cup."),
        ("ground_conv", 0, "At [250, 500, 750, 1000] [x]."),
    ]
    write_lines(folder / "answers.jsonl", [{"category": c, "question_id": k, "text": text} for c, k, text in said])
    reviews = [("refer_desc", 0, "8 6\n\nShort.", "A dog."), ("refer_desc", 2, "Both fine: 7 and 5.", "A cup.")]
    reviews += [("ground_conv", 0, "9, 3", "At [0.250, 0.500, 0.750, 1.000] .")]
    keys = ("category", "question_id", "content", "answer2")
    write_lines(folder / "reviews.jsonl", [dict(zip(keys, one, strict=True)) for one in reviews])
    for number in range(2):
        Image.new("RGB", (60, 40)).save(folder / f"{number}.png")
    return data


def mdvp_bench(folder: Path) -> Path:
    """MDVP-Bench of one natural, one android and one web question."""
    rule = {"role": "Assistant", "prompt": "Rate both."}
    write_json(folder / "annotations" / "rule.json", {"box": rule, "point": rule})
    for phase in ("natural_detailed_caption", "android_detailed_caption", "web_detailed_caption"):
        item = {"image_name": "s.png", "question": "Describe every region.", "question_id": 1}
        boxes = {"gt_answers": f"<Region 1>: it is {phase}.", "bbox": [[5, 5, 20, 20], [30.5, 10, 20, 20]]}
        write_json(folder / "data" / phase / f"{phase}_box.json", [item | boxes])
        points = {"gt_answers": "<Mark 1>: it.", "points": [[20, 18]]}
        write_json(folder / "data" / phase / f"{phase}_point.json", [item | points])
        (folder / "data" / phase / "images").mkdir()
        Image.new("RGB", (60, 40), (0, 0, 200)).save(folder / "data" / phase / "images" / "s.png")
    ids = [f"{part}_detailed_caption/1" for part in ("natural", "android", "web")]
    write_lines(folder / "answers.jsonl", [{"id": id, "answer": f"It is {id}."} for id in ids])
    return folder


def run(task: str, out: Path, *options: object) -> dict[str, Any]:
    """What ``pvit-ext eval`` wrote into metrics.json."""
    assert cli.main(["--traceback", "eval", task, "--out", str(out), *map(str, options)]) == 0
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def texts_of(body: dict[str, Any]) -> str:
    """All texts of a request's messages."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents for part in ([{"text": content}] if isinstance(content, str) else content)]
    return "".join(part.get("text", "") for part in parts)


def images_of(body: dict[str, Any]) -> list[Image.Image]:
    """The images of a request's messages."""
    contents = [message["content"] for message in body["messages"] if not isinstance(message["content"], str)]
    urls = [part["image_url"]["url"] for content in contents for part in content if "image_url" in part]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


Judge = Callable[[dict[str, Any], int], Any]
