"""Ends a run in which something that shall train gets no gradient: nothing would come of it, and nobody would know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

STEPS = 3
"""Steps with a learning rate that bring a gradient to what lies behind a zero: a LoRA's A behind its B, a gated layer
behind its gate. The first moves the zero, the second has the gradient, and one more where that underflows."""


class NoGradientError(ValueError):
    """Trained tensors had no gradient in a whole epoch."""


class GradientWatch(TrainerCallback):
    """Stops training at the end of the first whole epoch that brought some trained tensor no gradient.

    No gradient means none at all, or zeros in every step on every rank. Epochs are watched together until they have
    :data:`STEPS` steps with a learning rate above zero; one that was resumed in its middle does not count. A hook on
    each tensor looks at its gradient until it has seen one: that works where DeepSpeed takes ``.grad`` away, and costs
    nothing from the second step on.

    Attributes:
        untouched: names of the tensors without gradient, once that is known.
    """

    def __init__(self) -> None:
        self.untouched: list[str] = []
        self._names: list[str] = []
        self._hooks: dict[int, Any] = {}
        self._seen = torch.zeros(0)
        self._steps, self._from_start, self._done = 0, False, False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Hook every trained tensor."""
        parameters = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        self._names = [name for name, _ in parameters]
        self._seen = torch.zeros(len(parameters), dtype=torch.bool, device=args.device)
        for number, (_, parameter) in enumerate(parameters):
            self._hooks[number] = parameter.register_hook(_marking(self._seen, number))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch that was resumed in its middle does not count: it cannot tell which tensors got no gradient."""
        self._from_start = self._from_start or float(state.epoch or 0).is_integer()

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Count the steps that can move a tensor."""
        self._steps += any(float(group["lr"]) > 0 for group in optimizer.param_groups)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree on what has had a gradient on some rank, and unhook it.

        Here and not at the end of an epoch: a collective right before data workers are forked can leave one locked.
        """
        if not self._hooks:
            return
        seen = self._seen.to(torch.uint8)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        self._seen.copy_(seen.bool())
        for number in self._seen.nonzero().flatten().tolist():
            if (hook := self._hooks.pop(number, None)) is not None:
                hook.remove()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop, on all ranks alike, if some tensor has had none."""
        if self._done or not self._from_start or self._steps < STEPS:
            return
        self._done = True
        self.untouched = [self._names[number] for number in sorted(self._hooks)]
        if self.untouched and not args.allow_no_gradient:
            control.should_save = control.should_training_stop = True
        self.on_train_end(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Unhook the others."""
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def message(self) -> str:
        """What to say of the tensors without gradient, or nothing."""
        if not self.untouched:
            return ""
        names = ", ".join(self.untouched[:8]) + (f" and {len(self.untouched) - 8} more" if self.untouched[8:] else "")
        return (
            f"{len(self.untouched)} of {len(self._names)} trained tensors got no gradient in a whole epoch: {names}. "
            "Nothing in the data uses them: check it with pvit-ext data, or that the encoder's forward does"
        )


def _marking(seen: Tensor, number: int) -> Any:
    def mark(gradient: Tensor) -> None:
        seen[number].logical_or_(gradient.detach().any())

    return mark
