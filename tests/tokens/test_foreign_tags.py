"""Placeholders of other data sets in what a user asks: named, and told from what is meant as text."""

from __future__ import annotations

import pytest

from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.prompt import RegionError, bind_regions, foreign_tag_of_question
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.tokens.query import Query
from pvit_ext.tokens.turns import read_turns
from tests.data.test_unread import TAGS, wide

IN_BRACKETS = ("[", "{", wide("["))
MEANT = [
    "What is <region>?", "Is <L204> <b>it</b>, 3 < 4 > 2?", "Answer as <bbox>x0, y0, x1, y1</bbox>.",
    "Locate <ref>the dog</ref>.", "Draw it in SVG with <polygon>.", "A page with <object> and <AREA>.", "[region]?",
    "a {bbox} [1]", "<image> and <image 2>",
]  # fmt: skip


@pytest.mark.parametrize(
    "tag", [tag for tag in TAGS if not tag.startswith(IN_BRACKETS) and tag not in ("<area>", "<object>")]
)
def test_a_tag_that_nothing_reads_is_found(tag: str) -> None:
    found = foreign_tag_of_question(f"What is {tag}, and <region>?")
    assert found is not None
    assert tag.startswith(found)


@pytest.mark.parametrize("text", MEANT)
def test_what_may_be_meant_is_not(text: str) -> None:
    assert foreign_tag_of_question(text) is None


@pytest.mark.parametrize(
    "text", ["<bbox>[0.1, 0.2, 0.3, 0.4]</bbox>?", "<region1></region1>?", "<ref>the dog</ref> <bbox>"]
)
def test_coordinates_between_tags_are_no_words(text: str) -> None:
    assert foreign_tag_of_question(text) is not None


class Qwens:
    """A tokenizer with tokens of its own for boxes, and one that masked language models have."""

    def get_added_vocab(self) -> dict[str, int]:
        return {"<|box_start|>": 1, "<|box_end|>": 2, "<mask>": 3}


def asked(text: str, history: list[tuple[str, str]] | None = None, images: int = 1, **query: bool) -> str:
    turns, _ = read_turns(
        Query(None, text, history=history or (), **query), images, RegionProcessor(), SpecialTokens(Qwens()), "query 0"
    )
    return turns[-1]


def test_tokens_of_the_model_are_read() -> None:
    assert asked("<|box_start|>(1,2),(3,4)<|box_end|> <image>?") == "<|box_start|>(1,2),(3,4)<|box_end|> <image>?"
    with pytest.raises(RegionError, match=r"^query 0: '<mask>' in its question is text that no encoder reads"):
        asked("<|box_start|> or <mask>?")


def test_the_turn_is_named_and_answers_are_the_models() -> None:
    history = [("What <region1> ?", "a <bbox>"), ("Where?", "<region2>")]
    with pytest.raises(RegionError, match=r"^query 0, history\[0\]: '<region1>' .* write <region>, as it stands here"):
        asked("What?", history)
    assert asked("What?", history[1:]) == "What?"


def test_text_without_an_image_and_literal_text_are_not_searched() -> None:
    assert asked("aws --region <region-name>?", images=0) == "aws --region <region-name>?"
    assert asked("<image> <bbox>?", literal=True) == "<image> <bbox>?"


@pytest.mark.parametrize("tag", ["<region1>", "[region]"])
def test_another_number_of_regions_names_the_tag(tag: str) -> None:
    with pytest.raises(RegionError, match=r"^prompt: 0 <region> placeholders but 1 regions given; '.region1?.' is"):
        bind_regions(f"What is {tag}?", [object()])  # type: ignore[list-item]


def test_a_hint_in_an_earlier_answer_is_refused_where_there_is_a_hint_vector() -> None:
    query = Query(None, "And <hint>?", history=[("What?", "a dog"), ("Sure?", "as <hint> says")])
    with pytest.raises(RegionError, match=r"^query 0, history\[1\]: <hint> stands in an answer; it belongs"):
        read_turns(query, 1, RegionProcessor(tag_style=HINT_STYLE), SpecialTokens(Qwens()), "query 0")
    assert read_turns(query, 1, RegionProcessor(), SpecialTokens(Qwens()), "query 0")[1][1] == "as <hint> says"
