"""LION's mixture of adapters against the original's numbers (golden g9), and its parts without any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvit_ext.adapters.lion.feed_forward import feed_forwards, names_in_files, put_beside
from pvit_ext.adapters.lion.mixture import MixtureOfAdapters
from pvit_ext.adapters.lion.routing import KeepingRoute, routed
from pvit_ext.adapters.lion.tasks import Tasks, mix_of
from pvit_ext.config import RegionConfig
from pvit_ext.regions.region import RegionError
from tests.goldens import rules

GOLDEN = load_file(Path(__file__).parents[2] / "goldens" / "g9_lion_mixture.safetensors")
X = rules.normal("g9.ff", (2, 5, 48), 9)  # (2, 5, 48)
TASKS = Tasks(("region", "image"))


def original(prefixes: list[str]) -> MixtureOfAdapters:
    """A mixture with the weights of the original's adapters."""
    mixture = MixtureOfAdapters(48, 16, len(prefixes))
    state: dict[str, Tensor] = {}
    for number, prefix in enumerate(prefixes):
        for ours, theirs in (("down", "down_proj"), ("up", "up_proj")):
            for part in ("weight", "bias"):
                state[f"adapters.{number}.{ours}.{part}"] = GOLDEN[f"{prefix}.{theirs}.{part}"]
        state[f"adapters.{number}.scale.weight"] = GOLDEN[f"{prefix}.scale"][None]
    ratios = [GOLDEN[f"adapter.router_ratio{number + 1}"] for number in range(len(prefixes))]  # each (tasks, D)
    state["gates.weight"] = torch.cat(ratios, 1) if len(prefixes) > 1 else torch.ones(1, 48)
    mixture.load_state_dict(state)
    return mixture


def t5_feed_forward(x: Tensor) -> Tensor:
    """The layer without its adapters: RMS norm, gated GELU, residual."""
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * GOLDEN["layer_norm.weight"]
    names = ("wi_0", "wi_1", "wo")
    gate, up, down = (GOLDEN[f"DenseReluDense.{name}.weight"] for name in names)
    return x + (nn.functional.gelu(normed @ gate.T) * (normed @ up.T)) @ down.T


@pytest.mark.parametrize("task", [0, 1])
def test_router_and_adapters_give_the_originals_numbers(task: int) -> None:
    mixture = original(["adapter.adapters.0", "adapter.adapters.1"])
    with torch.no_grad():
        out = t5_feed_forward(X) + mixture(X, TASKS.mix(torch.tensor([task, task])))
    assert (out - GOLDEN[f"out.T5LayerFF_router{task}"]).abs().max() < 2e-6


def test_one_adapter_gives_the_originals_numbers() -> None:
    with torch.no_grad():
        out = original(["single.adapters.0"])(X, torch.ones(2, 1))
    assert (out - GOLDEN["out.single_adapter"]).abs().max() < 2e-6


def test_adds_nothing_at_the_start_and_a_task_reaches_its_own_adapter_alone() -> None:
    mixture = MixtureOfAdapters(48, 16, 2)
    assert torch.equal(mixture(X, TASKS.mix(torch.tensor([0, 1]))), torch.zeros_like(X))
    nn.init.normal_(mixture.adapters[1].up.weight)
    out = mixture(X, TASKS.mix(torch.tensor([0, 1])))
    assert torch.equal(out[0], torch.zeros_like(X[0]))
    assert torch.equal(out[1], mixture.adapters[1](X)[1])


class Block(nn.Module):
    """A block of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    made, root = Block(), nn.Module()
    root.layers = nn.ModuleList([made])
    mixture = MixtureOfAdapters(48, 16, 2)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, std=0.3)
    put_beside(feed_forwards(root), [mixture])
    return made


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_takes_the_route_of_its_own_forward(block: Block, reentrant: bool) -> None:
    def keep(function: object, *args: Tensor) -> Tensor:
        return checkpoint(function, *args, use_reentrant=reentrant)  # type: ignore[no-any-return]

    def gradients(forward: object, other_between: bool) -> list[Tensor]:
        block.zero_grad()
        x = X.clone().requires_grad_(True)
        with routed(TASKS.mix(torch.tensor([0, 1]))):
            out = forward(block.__call__, x)  # type: ignore[operator]
        if other_between:
            with routed(TASKS.mix(torch.tensor([1, 0]))):
                block(X)
        (out**2).sum().backward()
        return [parameter.grad.clone() for parameter in block.parameters() if parameter.grad is not None]

    expected = gradients(lambda function, x: function(x), False)
    found = gradients(KeepingRoute(keep), True)
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_without_a_route_the_layer_says_what_to_call(block: Block) -> None:
    with pytest.raises(ValueError, match=r"called directly.*tasks=\.\.\."):
        block(X)


def test_a_language_model_without_a_known_feed_forward_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks of a Linear have no feed-forward layer by the name mlp or ffn"):
        feed_forwards(nn.Linear(2, 2))


def test_feed_forward_layers_are_found_among_a_files_names() -> None:
    names = [f"{prefix}.{block}.mlp.up_proj.weight" for prefix in ("language_model.model.layers",) for block in (10, 2)]
    others = ["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "visual.blocks.0.mlp.fc1.weight"]
    assert names_in_files([*names, *others]) == [
        "language_model.model.layers.2.mlp",
        "language_model.model.layers.10.mlp",
    ]


@pytest.mark.parametrize("text", ["", "a,", "a,a"])
def test_names_of_tasks_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="give different names with commas between"):
        Tasks.parse(text)


def test_the_task_of_a_sample() -> None:
    config = RegionConfig(lion_adapters=4, lion_tasks="region, image, grounding")
    wanted = torch.eye(3)
    assert torch.equal(mix_of(config, None, [True, False]), wanted[[0, 1]])
    assert torch.equal(mix_of(config, ["grounding", "region"], [False, False]), wanted[[2, 0]])
    assert torch.equal(mix_of(config, torch.tensor([2, 0]), [False, False]), wanted[[2, 0]])
    assert mix_of(RegionConfig(), None, [True]) is None
    with pytest.raises(
        ValueError, match="sample 1: the task 'caption' is none of the model's: region, image, grounding"
    ):
        mix_of(config, ["image", "caption"], [False, False])
    with pytest.raises(ValueError, match="task number 3, the model has 3"):
        mix_of(config, torch.tensor([3]), [False])
    with pytest.raises(ValueError, match="tasks holds 1, the batch 2"):
        mix_of(config, ["image"], [False, False])
    with pytest.raises(ValueError, match="goes on from a cache: pass tasks="):
        mix_of(config, None, [False], continued=True)
    with pytest.raises(ValueError, match="has no adapters by task"):
        mix_of(RegionConfig(), ["image"], [False])
    with pytest.raises(ValueError, match=r"without regions is of the task 'image', and the model has a, b: say which"):
        mix_of(RegionConfig(lion_adapters=4, lion_tasks="a,b"), None, [False])


def test_some_samples_may_say_no_task() -> None:
    config = RegionConfig(lion_adapters=4)
    found = mix_of(config, [None, "region", None], [True, False, False])
    assert found is not None
    assert found.argmax(1).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="goes on from a cache: pass tasks="):
        mix_of(config, [None, "region"], [False, False], continued=True)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (torch.ones(2, 3), r"tasks of shape \(2, 3\), the model has 2: region, image"),
        (torch.tensor([0.0, 1.0]), "tasks are numbers of torch.float32: give whole ones"),
        ("region", "tasks is the text 'region': give a list of names or numbers, one for each sample"),
        ({"region", "image"}, r"tasks is \{.*\}: give a list of names or numbers"),
        (5, "tasks is 5: give a list of names or numbers"),
        ([1.5, 0], "sample 0: the task 1.5 is neither a name nor a whole number, the model has 2: region, image"),
        ([0, ["region"]], r"sample 1: the task \['region'\] is neither"),
        ([True, False], "sample 0: the task True is neither"),
        (torch.tensor([True, False]), "sample 0: the task True is neither"),
        (np.array([0.0, 1.0]), "sample 0: the task 0.0 is neither"),
        ([0, 2], "sample 1: task number 2, the model has 2: region, image"),
        (torch.tensor([[3.0, 0], [0, float("nan")]]), "weights that are not finite"),
        (torch.zeros(2, 2, dtype=torch.long), r"tasks of shape \(2, 2\).*give a name or number for each of 2"),
        (torch.ones(3, 2), r"tasks of shape \(3, 2\).*or weights \(2, 2\)"),
    ],
)
def test_tasks_that_are_none(tasks: Any, said: str) -> None:
    with pytest.raises(RegionError, match=said):
        mix_of(RegionConfig(lion_adapters=4), tasks, [False, False])


@pytest.mark.parametrize("tasks", [[1, "region"], (1, 0), np.array([1, 0]), torch.tensor([1, 0], dtype=torch.int32)])
def test_tasks_by_number_or_name(tasks: Any) -> None:
    found = mix_of(RegionConfig(lion_adapters=4), tasks, [False, False])
    assert found is not None
    assert found.tolist() == [[0, 1], [1, 0]]
