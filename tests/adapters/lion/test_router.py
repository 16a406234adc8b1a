"""Adapters chosen by the question: a top-1 gate, whose gradient comes straight through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pvit_ext.adapters.lion.router import QuestionRouter, mix_of_batch, pad_questions
from pvit_ext.adapters.lion.tasks import mix_of
from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.regions.region import RegionError

CONFIG = RegionConfig(lion_adapters=4, lion_routing="question")
BY_QUESTION = SimpleNamespace(**{CONFIG_KEY: {"lion_adapters": 4, "lion_routing": "question"}})
"""A host's config with it."""


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


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        (["what ?"], r"questions is \['what \?'\]: give whole numbers \(B, Q\), as .*pad_questions"),
        (torch.ones(1, 2), r"questions is \(1, 2\) of torch.float32"),
        (torch.ones(3, dtype=torch.long), r"questions is \(3,\) of torch.int64"),
        (torch.full((1, 2), 51), "questions holds the id 50, the language model has 0 to 49"),
        (torch.full((1, 2), -3), "questions holds the id -4"),
        (5, "questions is 5: give whole numbers"),
        (torch.tensor(5), r"questions is \(\) of torch.int64"),
    ],
)
def test_questions_that_are_none(words: nn.Embedding, questions: Any, said: str) -> None:
    with pytest.raises(RegionError, match=said):
        mix_of_batch(BY_QUESTION, QuestionRouter(12, 2), lambda: words, None, None, torch.ones(1, 3), questions)


def test_the_device_is_asked_once_for_the_ids(words: nn.Embedding, monkeypatch: pytest.MonkeyPatch) -> None:
    router, questions, asked = QuestionRouter(12, 3), pad_questions([[1, 2], [49]]), []
    monkeypatch.setattr(router, "forward", lambda embedded: embedded)  # one_hot looks at its numbers on a CPU

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(str(call))
            return call(*args, **(kwargs or {}))

    with Asked():
        router.route(words, questions)
    assert not [call for call in asked if "local_scalar" in call]  # each number that is read by itself is one


def test_the_last_id_and_no_words_are_questions(words: nn.Embedding) -> None:
    router = QuestionRouter(12, 3)
    assert router.route(words, pad_questions([[49], []])).shape == (2, 3)
    assert router.route(words, torch.zeros(2, 0, dtype=torch.long)).shape == (2, 3)


@pytest.mark.parametrize("values", [None, {"encoder": "osprey"}, {"encoder": "osprey", "lion_adapters": 4}])
def test_questions_for_a_model_without_a_router_are_refused(values: Any) -> None:
    config = SimpleNamespace(**{} if values is None else {CONFIG_KEY: values})
    with pytest.raises(RegionError, match="the model does not choose its adapters by them"):
        mix_of_batch(config, None, lambda: words, None, None, torch.ones(2, 3), pad_questions([[1], [2]]))


def test_questions_of_another_batch_are_refused(words: nn.Embedding) -> None:
    questions = pad_questions([[1], [2], [3]])
    with pytest.raises(RegionError, match=r"questions holds 3, the batch 2 sample\(s\)"):
        mix_of_batch(BY_QUESTION, QuestionRouter(12, 2), lambda: words, None, None, torch.ones(2, 3), questions)


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
