"""Mean average precision of named boxes, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def check_installed() -> None:
    """Raise ValueError where faster-coco-eval is not installed, before anything is asked."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        raise ValueError(f'mAP takes the package faster-coco-eval ({error}): pip install "pvit-ext[eval]"') from error


def mean_average_precision(
    objects: Sequence[Mapping[str, Any]],
    detections: Sequence[tuple[Mapping[str, Any], int, float]],
    categories: Sequence[int],
) -> float:
    """COCO's AP, over IoUs of 0.5 to 0.95 and all categories with an object; 0..1.

    Args:
        objects: COCO annotations: the ground truth.
        detections: an annotation whose box is taken, the id of the category that was named, and how sure it is.
        categories: all ids.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": number} for number in sorted({item["image_id"] for item in objects})]
    kept = ("id", "image_id", "category_id", "bbox", "area")
    truth = [{**{key: item[key] for key in kept if key in item}, "iscrowd": 0} for item in objects]
    for item in truth:
        item.setdefault("area", item["bbox"][2] * item["bbox"][3])
    found = [
        {"image_id": item["image_id"], "category_id": number, "bbox": item["bbox"], "score": score}
        for item, number, score in detections
    ]
    if not found:
        return 0.0
    ground = COCO({"images": images, "annotations": truth, "categories": [{"id": id} for id in categories]})
    evaluation = COCOeval_faster(ground, ground.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])
