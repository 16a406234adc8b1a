"""Tags as text: what may be one, the sentence that lists them, and tags of a worse tagger."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.data.tags.scores import TagScores
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import clean_tags, with_tags

COLOURS = tuple("red green blue black white grey pink brown".split())


def test_a_tag_cannot_break_the_list() -> None:
    given = ["salt, pepper", "a [b] c", " two  words\n", "犬", "Dog", "dog", "ring_(jewelry)", "o'clock"]
    assert clean_tags(given) == ["salt pepper", "a (b) c", "two words", "犬", "Dog", "ring_(jewelry)", "o'clock"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("dog, car", "a list of texts"),
        ({"dog": 1}, "a list of texts"),
        (["dog", 3], r"tags\[1\] is a text, got 3"),
        (["dog", ""], r"tags\[1\] '' has no letter"),
        ([" , "], "has no letter"),
        (["<image>"], "holds <image>"),
        (["a <region> b"], "holds <region>"),
        (["<hint>"], "holds <hint>"),
        (["</Region>"], "holds </Region>"),
        (["a <image_row>"], "holds <image_row>"),
        (["dog\n\nUSER: hi"], r"tags\[0\] 'dog\\n\\nUSER: hi' has several lines"),
        (["dog", "a\u2028b"], r"tags\[1\] .* has several lines"),
        (["\ud800x"], "half of a surrogate pair"),
    ],
)
def test_what_is_no_tag_is_said(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clean_tags(value)


def test_a_special_token_of_a_tokenizer_is_no_tag() -> None:
    added = {0: SimpleNamespace(content="<turn>", special=True), 1: SimpleNamespace(content="dog", special=False)}
    special = SpecialTokens(SimpleNamespace(all_special_tokens=["</s>", "[PAD]"], added_tokens_decoder=added))
    assert clean_tags(["dog", "< s", "[PAD]"], special) == ["dog", "< s", "(PAD)"], "brackets are round by then"
    for tag, token in (("a </s>", "</s>"), ("<turn>", "<turn>")):
        with pytest.raises(ValueError, match=rf"tags\[1\] '{tag}' holds {token}, a special token of the tokenizer"):
            clean_tags(["dog", tag], special)
    assert clean_tags(["</s>"], SpecialTokens(SimpleNamespace())) == ["</s>"]


def test_the_sentence_stands_behind_leading_images_and_before_the_question() -> None:
    sentence = "As <hint> advises, rely on all, some or none of these tags of the image: [dog, car]."
    assert with_tags("<image>\nWhat is it?", ["dog", "car"], "hint") == f"<image>\n{sentence} What is it?"
    assert with_tags("<image><image>\nWhat?", ["dog", "car"], "hint") == f"<image><image>\n{sentence} What?"
    assert with_tags("What is in <image>?", ["dog", "car"], "hint") == f"{sentence} What is in <image>?"
    plain = with_tags("<image>\nWhat?", ["dog"], "plain")
    assert plain == "<image>\nRely on all, some or none of these tags of the image: [dog]. What?"
    assert with_tags("<image>\nWhat?", [], "hint") == "<image>\nWhat?"


def test_braces_in_a_tag_are_text() -> None:
    assert "[{0}, a {}]" in with_tags("What?", clean_tags(["{0}", "a {}"]), "hint")


def test_noise_depends_on_seed_epoch_and_sample_alone() -> None:
    noise = TagNoise(0.3, 0.5, True, COLOURS)
    first, again, other = (noise(COLOURS[:4], np.random.default_rng((0, epoch, 7))) for epoch in (0, 0, 1))
    assert first == again
    assert first != other
    assert noise.changes
    assert not TagNoise().changes


def test_noise_has_the_rates_that_were_asked_for() -> None:
    draw, noise = np.random.default_rng(0), TagNoise(0.25, 0.5, False, COLOURS)
    made = [noise(COLOURS[:4], draw) for _ in range(2000)]
    assert np.mean([len(set(one) & set(COLOURS[:4])) for one in made]) == pytest.approx(3, abs=0.05)
    assert np.mean([len(set(one) - set(COLOURS[:4])) for one in made]) == pytest.approx(2, abs=0.1)
    assert all(len(set(one)) == len(one) for one in made)


def test_a_wrong_tag_stands_anywhere_and_the_others_keep_their_order() -> None:
    """Else a model could learn the place of wrong ones, and not how far to rely on tags."""
    own, noise = list(COLOURS[:3]), TagNoise(wrong=0.2, vocabulary=COLOURS)
    made = [noise(own, np.random.default_rng((0, epoch, 1))) for epoch in range(1500)]
    assert all([tag for tag in one if tag in own] == own for one in made)
    places = [one.index(tag) for one in made for tag in one if len(one) == 4 and tag not in own]
    assert len(places) > 400
    assert np.bincount(places, minlength=4) / len(places) == pytest.approx([0.25] * 4, abs=0.05)


def test_nothing_is_drawn_for_a_place_where_no_tag_joins() -> None:
    """What else of a sample is drawn stays as it was."""
    for seed, vocabulary in ((0, ("red",)), *((seed, COLOURS) for seed in range(20))):
        draw, twin = np.random.default_rng(seed), np.random.default_rng(seed)
        if TagNoise(wrong=0.5, vocabulary=vocabulary)(["red"], draw) == ["red"]:
            twin.binomial(1, 0.5)
            assert draw.random() == twin.random()


def test_each_noise_alone() -> None:
    draw = np.random.default_rng(0)
    assert TagNoise(drop=1)(COLOURS, draw) == []
    assert TagNoise()(COLOURS, draw) == list(COLOURS)
    assert sorted(TagNoise(shuffle=True)(COLOURS, draw)) == sorted(COLOURS)
    assert TagNoise(wrong=1, vocabulary=("Red",))(["red"], draw) == ["red"], "the same tag is not a wrong one"
    with pytest.raises(ValueError, match=r"the chance of a tag to be wrong is 1\.5: give 0 to 1"):
        TagNoise(wrong=1.5)


def test_scores_count_over_all_images() -> None:
    scores = TagScores.of([({"dog", "car"}, {"dog"}), (set(), {"cat", "dog"})])
    assert (scores.right, scores.wrong, scores.missed) == (1, 1, 2)
    assert (scores.precision, scores.recall) == (0.5, pytest.approx(1 / 3))
