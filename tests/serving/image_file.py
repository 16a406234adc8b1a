"""Images as files."""

from __future__ import annotations

import io

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file of an image."""
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
