"""What a source has, for tasks that find nothing to ask."""

from __future__ import annotations

from collections import Counter

from pvit_ext.data.convert.annotation import AnnotatedImage


def inventory(image: AnnotatedImage) -> Counter[str]:
    """How much of each kind of annotation an image has."""
    objects = image.objects
    return Counter(
        {
            "objects": len(objects),
            "objects with labels": sum(bool(item.label) for item in objects),
            "objects with captions": sum(bool(item.captions) for item in objects),
            "objects with attributes": sum(bool(item.attributes) for item in objects),
            "relations": len(image.relations),
            "captions of images": len(image.captions),
            "grounded sentences": len(image.grounded),
            "questions": len(image.questions),
            "conversations": len(image.conversations),
        }
    )
