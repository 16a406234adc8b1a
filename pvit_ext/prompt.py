"""Prompts with regions: ``<region>`` placeholders, PVIT's and inline markup.

PVIT (arXiv 2308.13437) writes a region into the text, relative to the original image, either in 1000 bins,
``<Region><L204><L469><L810><L960></Region>`` (each divided by 1000), or as fractions,
``<Region>[0.204, 0.469, 0.810, 0.960]</Region>``. White space inside the tags is ignored. Both become ``<region>`` and
a normalised box. Their values are checked later, like those of every region, by
:meth:`pvit_ext.regions.region.Region.resolve`.

Anything else in ``<Region>`` tags, a tag without its partner and ``</region>`` are errors: the original leaves such
markup in the prompt as text, so that the model never sees the region. ``<L204>`` outside the tags is ordinary text.

Placeholders of other data sets (``<region1>``, ``<bbox>``, ``<mask>``) would stay in the prompt as text too:
:func:`foreign_tag` finds them in records, :func:`foreign_tag_of_question` in what a user asks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterator, Sequence
from typing import TypeVar

from pvit_ext.regions.region import Region, RegionError

REGION_PLACEHOLDER = "<region>"
IMAGE_PLACEHOLDER = "<image>"
REGION_TOKEN_INDEX = -300
HINT_PLACEHOLDER = "<hint>"
ROW_PLACEHOLDER = "<image_row>"
"""Stands at the positions of rows that the vision aggregator appends; processors write it, nobody else."""
HINT_TOKEN_INDEX = -301
IMAGE_TOKEN_INDEX = -200
"""LLaVA's own sentinel (llava.constants), repeated so that this module does not import llava."""

_MARKUP = re.compile(r"<Region>((?:(?!</?Region>).)*)</Region>|<region>|</?[Rr]egion>", re.DOTALL)
_BINS = re.compile(r"\s*<L(\d{1,4})>\s*<L(\d{1,4})>\s*<L(\d{1,4})>\s*<L(\d{1,4})>\s*")
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
_FRACTIONS = re.compile(rf"\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\s*")
RegionT = TypeVar("RegionT")

_OURS = r"(?!</?[Rr]egion>)"  # find_placeholders reads these, or says what is wrong with them
_TAG = r"(?i:(?:<|&lt;)[/|]?\s?(?:im(?:age|g)[ _-]?)?(?:{words})(?:[\d\s_:#-][\w\s:#-]{{0,40}})?[/|]?(?:>|&gt;))"
_REGION_WORDS = r"regions?|bbox(?:es)?|boxes|bounding[ _-]?box(?:es)?|rois?|spi"
_OTHER_WORDS = (
    r"area|box|crop|mask|masks|rle|seg|segmentation|ref|reg|rgn|point|points|polygon|scribble|quad|objects?|objs?|loc|"
    r"pos|vp|visual[ _-]?prompt|(?:no[ _-]?)?prompt"
)
_IN_ANSWERS = re.compile(_OURS + _TAG.format(words=_REGION_WORDS))
_IN_TEXTS = re.compile(
    r"<(?:(?:[Rr]egions?|[Bb]oxes|[Bb]ounding[ _-]?[Bb]ox(?:es)?)[\s_:#-]?\d+|"
    r"(?:[Bb]box(?:es)?|[Rr]ois?|spi)[\s_:#-]?\d*)>"
)
"""In questions without an image, where ``<regions>`` and ``<REGION>`` are blanks for the reader's own word."""
_FLAG = re.compile(r"(?<!\S)--?\w[\w-]*[ =]<[^<>]*>")
_IN_QUESTIONS = re.compile(_OURS + _TAG.format(words=f"{_REGION_WORDS}|{_OTHER_WORDS}"))
_UNFILLED = re.compile(
    r"""(?<![A-Za-z0-9_\\\])}}^{{[])(?<!\bf['"])(?!\[MASK\])(?i:\[{words}\]|\{{{words}\}})(?!\}})""".format(
        words=r"(?:regions?|bbox|roi|seg|mask|visual[ _]?prompt)[\d_]*"
    )
)
"""What is an error in questions of records: a template of Python's that nobody filled, and brackets of another kind.
Behind a letter or a bracket they are LaTeX, an index or another template; ``[MASK]`` is the blank of a cloze."""
_WIDE = re.compile("[\uff1c\uff1e\ufe64\ufe65\uff3b\uff5b]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0xFE64: "<", 0xFE65: ">"}
"""Full-width characters, as East Asian keyboards type them, and those they stand for."""
_PAIR = re.compile(r"<([\w -]+)>[^<>]*</\1>", re.IGNORECASE)
_PLAIN = re.compile(r"</?region>", re.IGNORECASE)
_AROUND_WORDS = re.compile(r"<([\w -]+)>(?=[^<>]*[^\W\d_])[^<>]*</\1>", re.IGNORECASE)
_OF_PAGES = frozenset(("<area>", "<object>", "<polygon>"))
"""Elements of HTML and SVG, which a question may ask for."""
NOT_READ = "is text that no encoder reads"


def parse_regions(text: str, sample: str = "prompt") -> tuple[str, list[Region]]:
    """Turn PVIT's inline markup into ``<region>`` placeholders and normalised boxes on image 0, in order.

    ``<region>`` that stands in the text already is kept and has no entry in the list; see :func:`bind_regions`.

    Args:
        text: a prompt or one turn of a conversation.
        sample: its name in error messages.

    Raises:
        RegionError: on malformed markup.
    """
    return replace_markup(text), [region for region in find_placeholders(text, sample) if region]


def bind_regions(text: str, regions: Sequence[Region] = (), sample: str = "prompt") -> tuple[str, list[Region]]:
    """Merge explicit regions, which fill ``<region>``, with inline markup, in the order of their placeholders.

    Args:
        text: a prompt with ``<region>``, inline markup, or both.
        regions: one for each ``<region>`` that is written in the text.
        sample: its name in error messages.

    Returns:
        the text with ``<region>`` only, and one region for each.

    Raises:
        RegionError: on malformed markup, or another number of regions than of placeholders.
    """
    filled = fill_placeholders(list(find_placeholders(text, sample)), regions, sample, [text])
    return replace_markup(text), filled


def replace_markup(text: str) -> str:
    """The text with ``<region>`` in place of inline markup that :func:`find_placeholders` has read."""
    return _MARKUP.sub(REGION_PLACEHOLDER, text)


def find_placeholders(text: str, sample: str = "prompt") -> Iterator[Region | None]:
    """One entry for each placeholder in order: its inline region, or None for a plain ``<region>``.

    Raises:
        RegionError: on malformed markup.
    """
    if "egion>" not in text:
        return
    for match in _MARKUP.finditer(text):
        if match.group(0) == REGION_PLACEHOLDER:
            yield None
        elif match.group(1) is None:
            raise RegionError(f"{sample}: {match.group(0)} without its partner in {_excerpt(text, match)}; {_VALID}")
        else:
            yield _inline_region(match.group(1), f"{sample}: malformed region {_excerpt(text, match)}")


def fill_placeholders(
    found: Sequence[Region | None], regions: Sequence[RegionT], sample: str, texts: Sequence[str] = ()
) -> list[Region | RegionT]:
    """Put the explicit regions where :func:`find_placeholders` gave None.

    Args:
        found: by it.
        regions: one for each None.
        sample: its name in error messages.
        texts: of the sample; a tag in them that means a region elsewhere is named where the numbers differ.

    Raises:
        RegionError: on another number of regions than of plain placeholders.
    """
    if (wanted := found.count(None)) != len(regions):
        inline = f" ({len(found) - wanted} more written inline)" if len(found) > wanted else ""
        raise RegionError(
            f"{sample}: {wanted} {REGION_PLACEHOLDER} placeholders{inline} but {len(regions)} regions given"
            f"{hint_of_tags(texts)}"
        )
    explicit = iter(regions)
    return [next(explicit) if region is None else region for region in found]


def foreign_tag(text: str, answer: bool = False) -> str | None:
    """The first tag in a record's text that means a region elsewhere, None if there is none.

    Args:
        text: of one turn.
        answer: whether it is one; ``<box>``, ``<ref>`` and ``<mask>`` are ordinary text there, as in code.
    """
    pattern = _IN_ANSWERS if answer else _IN_QUESTIONS
    found = pattern.search(text) if "<" in text or "&lt;" in text else None
    if found is None and not answer and ("[" in text or "{" in text):
        found = _UNFILLED.search(text)
    return found[0] if found else _wide_tag(text, pattern, *(() if answer else (_UNFILLED,)))


def _wide_tag(text: str, *patterns: re.Pattern[str]) -> str | None:
    """The first tag that patterns find, or that is ``<region>``, once full-width characters are others."""
    if text.isascii() or not _WIDE.search(text):
        return None
    narrow = text.translate(_NARROW)  # of the same length
    found = (text[one.start() : one.end()] for pattern in (*patterns, _PLAIN) for one in pattern.finditer(narrow))
    return next((tag for tag in found if _WIDE.search(tag)), None)


def foreign_tag_of_text(question: str) -> str | None:
    """The first tag in a question without an image that means a region elsewhere.

    Tags around something are code, and those behind a flag a blank.
    """
    if "<" not in question or not _IN_TEXTS.search(question):
        return None
    found = _IN_TEXTS.search(_FLAG.sub("", _PAIR.sub("", question)))
    return found and found[0]


def foreign_tag_of_question(text: str, known: Container[str] = ()) -> str | None:
    """The first tag in a user's question that means a region elsewhere, None if there is none.

    A user may mean more as text than a record: a pair of tags around words, which is a form for the answer or markup,
    and elements of HTML and SVG.

    Args:
        text: question about an image.
        known: tokens of the model's own, such as Qwen's ``<|box_start|>``; ``<mask>``, of masked language models, is
            none that means a region.
    """
    if "<" not in text and "&lt;" not in text:
        return _wide_tag(text, _IN_QUESTIONS)
    tags = (found[0] for found in _IN_QUESTIONS.finditer(_AROUND_WORDS.sub("", text)))
    found = next((tag for tag in tags if tag.lower() not in _OF_PAGES and (tag not in known or tag == "<mask>")), None)
    return found or _wide_tag(text, _IN_QUESTIONS)


def hint_of_tags(texts: Sequence[str]) -> str:
    """What to add to an error about the number of ``<region>``: a tag that may stand for one, or nothing."""
    tag = next(filter(None, map(foreign_tag, texts)), None)
    return "" if tag is None else f"; {tag[:40]!r} {NOT_READ}: write {REGION_PLACEHOLDER}"


def number_regions(texts: Sequence[str]) -> list[str]:
    """The texts with ``[1]``, ``[2]``, ... for their ``<region>``, counted through all, as in the drawn image."""
    numbers = itertools.count(1)
    return [re.sub(REGION_PLACEHOLDER, lambda _: f"[{next(numbers)}]", text) for text in texts]


def _inline_region(inner: str, problem: str) -> Region:
    if bins := _BINS.fullmatch(inner):
        x0, y0, x1, y1 = (int(value) / 1000 for value in bins.groups())
    elif fractions := _FRACTIONS.fullmatch(inner):
        x0, y0, x1, y1 = (float(value) for value in fractions.groups())
    else:
        raise RegionError(f"{problem}; {_VALID}")
    return Region.box(x0, y0, x1, y1, normalized=True)


_VALID = "write <Region><L0><L0><L999><L999></Region>, <Region>[0.0, 0.0, 1.0, 1.0]</Region> or <region>"


def _excerpt(text: str, match: re.Match[str]) -> str:
    return repr(text[max(match.start() - 20, 0) : match.end() + 20])
