"""Adapters chosen by the question: a top-1 gate, whose gradient comes straight through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pvit_ext.adapters.lion.router import QuestionRouter, pad_questions
from pvit_ext.adapters.lion.tasks import mix_of
from pvit_ext.config import RegionConfig

CONFIG = RegionConfig(lion_adapters=4, lion_routing="question")


@pytest.fixture(scope="module")
def words() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(50, 12)


def test_one_adapter_a_question_whatever_else_is_in_the_batch(words: nn.Embedding) -> None:
    torch.manual_seed(1)
    router = QuestionRouter(12, 3)
    questions = [[1, 2, 3], [7], [0, 0, 4, 9, 11]]
    mix = router.route(words, pad_questions(questions))
    assert mix.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert set(mix.detach().round(decimals=5).flatten().tolist()) == {0.0, 1.0}
    assert len({tuple(row) for row in mix.argmax(-1)[:, None].tolist()}) > 1  # they differ
    for number, own in enumerate(questions):
        assert torch.equal(router.route(words, pad_questions([own]))[0], mix[number])
    (mix * torch.arange(3)).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in router.parameters() if parameter.grad is not None)
    assert router.choice.weight.grad is not None
    assert words.weight.grad is None


def test_a_task_that_somebody_says_goes_before_the_question() -> None:
    chosen = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(mix_of(CONFIG, None, [True, False], by_question=lambda: chosen), chosen)
    said = mix_of(CONFIG, torch.tensor([0, -1]), [True, False], by_question=lambda: chosen)
    assert torch.equal(said, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="task number -1"):
        mix_of(RegionConfig(lion_adapters=4), torch.tensor([-1]), [True])


def test_without_questions_all_tasks_have_to_be_said() -> None:
    said = mix_of(CONFIG, ["image", "region"], [True, False])
    assert torch.equal(said, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    for tasks in (None, torch.tensor([0, -1])):
        with pytest.raises(ValueError, match="pass questions=, or tasks= for each sample"):
            mix_of(CONFIG, tasks, [True, False])


def test_routing_without_adapters_and_unknown_routing_are_refused() -> None:
    with pytest.raises(ValueError, match="lion_routing 'question' cannot apply without adapters"):
        RegionConfig(lion_routing="question").resolved(1)
    with pytest.raises(ValueError, match="lion_routing is 'token'; known: task, question"):
        RegionConfig(lion_adapters=4, lion_routing="token").resolved(1)
