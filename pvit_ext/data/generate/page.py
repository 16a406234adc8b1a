"""Results of a sample as one HTML file: images with drawn regions, questions and answers, and what went wrong."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from pvit_ext.data.generate.pipeline import Dead, Done
from pvit_ext.data.generate.scene import SceneObject
from pvit_ext.data.generate.strategies import Job
from pvit_ext.data.html_page import jpeg_data_url, mark_regions, write_html_page
from pvit_ext.data.region_fields import parse_region
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import ImageError, load_image
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; }
article { display: flex; gap: 1.5em; border-top: 1px solid #ccc; padding: 1.2em 0; flex-wrap: wrap; }
article > div { flex: 1; min-width: 20em; } img { max-width: 100%; } h2 { font-size: 1.05em; margin: 0 0 .5em; }
.task { background: #e8eef7; border-radius: .3em; padding: .1em .5em; font-weight: normal; }
.question { font-weight: 600; margin: .6em 0 0; } .answer { margin: 0; white-space: pre-wrap; }
.mark { color: #fff; border-radius: .3em; padding: 0 .35em; } .problem { color: #a00; }
details { color: #555; margin-top: .8em; } pre { white-space: pre-wrap; }
"""


def write_page(
    path: Path, results: Sequence[tuple[Job, Done | Dead]], heading: str, notes: Sequence[str], image_folder: str
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        results: of the sample.
        heading: of the page.
        notes: lines below it, such as what the whole run will cost.
        image_folder: of mask files.
    """
    articles = "\n".join(_article(job, result, image_folder) for job, result in results)
    lines = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
    write_html_page(path, heading, _STYLE, f"<h1>{html.escape(heading)}</h1>\n{lines}\n{articles}")


def _article(job: Job, result: Done | Dead, image_folder: str) -> str:
    drawn = [job.scene.objects[number] for number in _drawn(job, result)]
    try:
        image = _image(job.scene.file, drawn, image_folder)
    except ImageError as error:
        image = ""
        result = Dead(str(error), result.attempts) if isinstance(result, Dead) else Dead(str(error))
    said = _dialogue(result) if isinstance(result, Done) else _problems(result)
    known = "\n".join([*job.scene.captions, *(f"[{k}] {_known(thing)}" for k, thing in enumerate(drawn, 1))])
    return (
        f'<article><div><img src="{image}" alt="{html.escape(job.scene.image)}"></div><div>'
        f'<h2>{html.escape(job.scene.name)} <span class="task">{html.escape(job.strategy)}</span></h2>\n{said}\n'
        f"<details><summary>annotations</summary><pre>{html.escape(known)}</pre></details></div></article>"
    )


def _drawn(job: Job, result: Done | Dead) -> Sequence[int]:
    """The objects that are drawn: one for each ``<region>`` of a dialogue in order, else all that were shown."""
    return [number for turn in result.turns for number in turn.regions] if isinstance(result, Done) else job.shown


def _dialogue(result: Done) -> str:
    parts = [f"<p>{html.escape(result.description.description)}</p>"] if result.description else []
    number = 1
    for turn in result.turns:
        question, number = mark_regions(turn.question, number)
        parts.append(f'<p class="question">{question}</p><p class="answer">{html.escape(turn.answer)}</p>')
    return "\n".join(parts)


def _problems(result: Dead) -> str:
    attempts = "\n\n".join(f"{one['problem']}\n{one['reply']}" for one in result.attempts)
    return (
        f'<p class="problem">Cannot be used: {html.escape(result.reason)}</p>'
        f"<details><summary>replies</summary><pre>{html.escape(attempts)}</pre></details>"
    )


def _known(thing: SceneObject) -> str:
    return "; ".join(filter(None, [thing.label, ", ".join(thing.attributes), thing.text]))


def _image(file: str, things: Sequence[SceneObject], image_folder: str) -> str:
    """A data URL of the image with the regions."""
    image = load_image(file)
    regions = [_region(thing, image_folder, file).resolve(image.size, file) for thing in things]
    return jpeg_data_url(draw_regions(image, regions))


def _region(thing: SceneObject, image_folder: str, location: str) -> Region:
    spec = parse_region(thing.region, location, image_folder)
    return spec.load(image_folder, location) if isinstance(spec, PendingMask) else spec
