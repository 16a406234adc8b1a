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
    kept = ("image_id", "category_id", "bbox")
    truth = []
    for number, item in enumerate(objects, 1):  # COCO's measure takes an id of 0 for "no object"
        area = item.get("area", item["bbox"][2] * item["bbox"][3])
        truth.append({**{key: item[key] for key in kept}, "id": number, "area": area, "iscrowd": 0})
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
