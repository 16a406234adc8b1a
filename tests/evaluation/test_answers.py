"""Answers as classes: a wrong normalisation changes every number of the own set."""

from __future__ import annotations

import pytest

from pvit_ext.evaluation.answers import check_words, equal_class, normalise, only_name_within

CHESS = ["rook", "white rook", "black rook", "king", "t-shirt"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("A dog.", "dog"),
        (" the  White\nRook ", "white rook"),
        ("an_apple", "apple"),
        ("\uff21pple", "apple"),
        ("'a cat'", "cat"),
        ("theatre", "theatre"),
        ("The", "the"),
        ("...", ""),
        ("12", "12"),
    ],
)
def test_what_does_not_change_the_meaning_is_taken_off(text: str, want: str) -> None:
    assert normalise(text) == want


def test_the_whole_answer_is_the_class() -> None:
    assert equal_class("White rook.", CHESS) == "white rook"
    assert equal_class("It is a white rook.", CHESS) is None


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["c", "c++"], r"'c' and 'c\+\+' are of the same words"),
        (["dog", "-1", "1"], "'-1' and '1' are of"),
        (["dog", "+"], "'\\+' has no words"),
    ],
)
def test_classes_of_the_same_words_are_refused(classes: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"--set match=words cannot tell the classes apart: {said}"):
        check_words(classes)
    check_words(CHESS)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("It is a white rook.", "white rook"),
        ("a rook", "rook"),
        ("a rook, a white rook", None),
        ("a king and a white rook", None),
        ("a white rook and another white rook", "white rook"),
        ("a kingdom", None),
        ("his T-shirt!", "t-shirt"),
        ("", None),
    ],
)
def test_just_one_class_within_the_answer(answer: str, want: str | None) -> None:
    assert only_name_within(answer, CHESS) == want
