"""Positions of a prompt for the rows that the vision aggregator appends, behind each image's own.

To a family's processor they are text: it counts the tokens of its images as ever. How many rows the whole view of an
image has is read off what the processor wrote for it, before the tokenizer gets the text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from pvit_ext.hosts.transformers.expanded_text import NotingTokenizer
from pvit_ext.hosts.transformers.families.base import Family
from pvit_ext.hosts.transformers.truncation import check_cut
from pvit_ext.prompt import ROW_PLACEHOLDER
from pvit_ext.regions.region import RegionError


class RowTokenizer(NotingTokenizer):
    """A tokenizer that writes a placeholder for each row of an image where a text has one for all of them.

    Args:
        tokenizer: that does the work.
        rows: of an image, by the text before them, from the rows of another image on.
    """

    def __init__(self, tokenizer: Any, rows: Callable[[str], int]) -> None:
        super().__init__(tokenizer)
        self.rows = rows

    def __call__(self, text: str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's own call."""
        texts = self._written(text) if isinstance(text, str) else [self._written(one) for one in text]
        return super().__call__(texts, *args, **kwargs)

    def _written(self, text: str) -> str:
        *shown, rest = text.split(ROW_PLACEHOLDER)
        return "".join(before + ROW_PLACEHOLDER * self.rows(before) for before in shown) + rest


def call_with_rows(
    call: Callable[..., Any], processor: Any, family: Family, images: Any, text: Any, *args: Any, **kwargs: Any
) -> Any:
    """A processor's output for texts with positions behind each image.

    Args:
        call: the stock call, as a function of the processor.
        processor: of the model.
        family: of the model.
        images, text, args, kwargs: of the call.

    Raises:
        RegionError: for a text that has such positions already, for images that no text shows, for a tokenizer that
            does not know the placeholder, and naming the sample of whose positions truncation cut some.
    """
    token_id = processor.tokenizer.convert_tokens_to_ids(ROW_PLACEHOLDER)
    if token_id in (None, processor.tokenizer.unk_token_id):
        raise RegionError(
            f"the model appends rows of its vision aggregator, but the processor's tokenizer does not know "
            f"{ROW_PLACEHOLDER}: give the processor to pvit_ext.attach(model, config, processor=processor), and save "
            "it beside the model"
        )
    texts = [text] if isinstance(text, str) else list(text)
    if any(ROW_PLACEHOLDER in one for one in texts):
        raise RegionError(
            f"{ROW_PLACEHOLDER} stands in a text: the processor writes it behind each image itself, leave it out"
        )
    behind = re.compile(image_pattern(processor, family))
    if _holds_any(images) and not any(map(behind.search, texts)):
        raise RegionError(f"images were given, but no text shows one: write {processor.image_token} where it stands")
    marked = [behind.sub(lambda image: image[0] + ROW_PLACEHOLDER, one) for one in texts]
    changed = copy.copy(processor)
    changed.tokenizer = RowTokenizer(processor.tokenizer, lambda before: family.rows_behind(processor, before))
    out = call(changed, images, marked[0] if isinstance(text, str) else marked, *args, **kwargs)
    wanted = [one.count(ROW_PLACEHOLDER) for one in changed.tokenizer.texts]
    names = [f"the {count} positions of its image(s) for rows of the vision aggregator" for count in wanted]
    check_cut(out["input_ids"], token_id, wanted, names, "the text")
    return out


def _holds_any(images: Any) -> bool:
    """Whether there is an image in lists of lists."""
    return any(map(_holds_any, images)) if isinstance(images, (list, tuple)) else images is not None


def image_pattern(processor: Any, family: Family) -> str:
    """A regular expression of an image's placeholder in a text, with the end that a chat template writes behind it."""
    end = re.escape(family.image_end)
    return re.escape(processor.image_token) + (f"(?:{end})?" if end else "")
