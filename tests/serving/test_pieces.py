"""What may be said of an unfinished text, and how rows of one batch draw samples."""

from __future__ import annotations

import pytest
import torch

from pvit_ext.serving.answer import Settings, cut_at
from pvit_ext.serving.rows import stable
from pvit_ext.serving.sampling import RowSampling


@pytest.mark.parametrize(
    ("text", "stops", "said"),
    [
        ("a cat and a dog", (), "a cat and a"),
        ("a cat and a window", (), "a cat and a window"),
        ("it does n", (), "it does"),
        ("caf\ufffd", (), "caf"),
        ("a catfish##", ("###",), "a catfish"),
        ("a catfish ", (), "a catfish"),
        ("a longer text, Human", ("\nHuman:", "Human: no"), "a longer text,"),
        ("", (), ""),
        ("dog", (), "dog"),
    ],
)
def test_what_is_stable(text: str, stops: tuple[str, ...], said: str) -> None:
    assert stable(text, stops) == said


def test_the_first_stop_text_cuts() -> None:
    assert cut_at("one, two. Three", (".", ",")) == "one"
    assert cut_at("one", (".",)) is None


def test_rows_draw_from_their_own_distributions() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(3, 1)
    settings = [Settings(temperature=1.0, seed=3), Settings(), Settings(temperature=0.5, top_p=0.9, seed=4)]
    sampling, counts = RowSampling(settings), torch.zeros(3, 4)
    ids = torch.zeros(3, 1, dtype=torch.long)
    for _ in range(1500):
        counts[torch.arange(3), sampling(ids, scores.clone()).argmax(1)] += 1
    drawn = counts / 1500
    assert torch.allclose(drawn[0], scores[0].softmax(0), atol=0.05)
    assert drawn[1].tolist() == [1, 0, 0, 0]
    nucleus = torch.tensor([4.0, 2.0]).softmax(0)  # the third would be beyond 0.9
    assert torch.allclose(drawn[2], torch.cat([nucleus, torch.zeros(2)]), atol=0.05)


@pytest.mark.parametrize("temperature", [1e-7, 1e-39, 1e-46, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest_token(temperature: float) -> None:
    """Divided by it, scores would be infinite, or no numbers at all."""
    scores = torch.tensor([[-40.0, 29.99, 30.0, float("-inf")], [-9.0, -3.0, -2.01, -2.0]])
    sampling = RowSampling([Settings(temperature=temperature, seed=0)] * 2)
    assert sampling(torch.zeros(2, 1), scores.clone()).argmax(1).tolist() == [2, 3]


def test_a_forbidden_token_is_never_drawn() -> None:
    scores = torch.tensor([[0.0, float("-inf")]])
    sampling = RowSampling([Settings(temperature=5.0, seed=0)])
    assert all(int(sampling(torch.zeros(1, 1), scores.clone()).argmax()) == 0 for _ in range(200))
