"""One self-contained HTML file: no network, images as data URLs, and nothing in a record's text becomes markup."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from pathlib import Path

from PIL import Image

from pvit_ext.files import atomic_write
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.drawing import colour_of


def write_html_page(path: Path, title: str, style: str, body: str, script: str = "") -> None:
    """Write the file; its own policy forbids the browser any other source, and any script but this one.

    Args:
        path: of the file.
        title: plain text.
        style: CSS.
        body: HTML.
        script: JavaScript that runs behind the body.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"script-src 'sha256-{digest}'; " if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {scripts}base-uri 'none'"
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>{body}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def jpeg_data_url(image: Image.Image, quality: int = 85) -> str:
    """An image as a JPEG in a data URL.

    Args:
        image: RGB.
        quality: of the JPEG, 1 to 95.
    """
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def mark_regions(text: str, first: int = 1) -> tuple[str, int]:
    """The text as HTML, its ``<region>`` as numbers in their regions' colours.

    Args:
        text: of a turn.
        first: number of its first region.

    Returns:
        the HTML, and the number of the next region.
    """
    parts = [html.escape(part) for part in re.split(REGION_PLACEHOLDER, text)]
    numbers = range(first, first + len(parts) - 1)
    marks = [f'<b class="mark" style="background:rgb{colour_of(number)}">{number}</b>' for number in numbers]
    return "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True)), first + len(marks)
