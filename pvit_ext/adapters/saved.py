"""peft's wrapper for an adapter that is loaded: it takes the tensors of all of it, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from pvit_ext.adapters.tensors import new_names, plain_names, state_of

_SHOWN = 3


class SavedAdapter(PeftModel):
    """peft fills what a file has and leaves the rest at random; here, a file that is not the whole adapter is an error.

    Args:
        model: base model.
        config: of peft, whose ``task_type`` is None: peft would choose another class by it.
        name: of the adapter.
        kwargs: of peft.
    """

    def __init__(self, model: Any, config: Any, name: str = "default", **kwargs: Any) -> None:
        before = [tensor for _, tensor in state_of(model)]  # held: an id means nothing once its tensor is freed
        super().__init__(model, config, name, **kwargs)
        self._newest, self._name = new_names(self, before), name

    def add_adapter(self, adapter_name: str, peft_config: Any, *args: Any, **kwargs: Any) -> None:
        """Put another adapter beside those that are there."""
        before = [tensor for _, tensor in state_of(self)]
        super().add_adapter(adapter_name, peft_config, *args, **kwargs)
        self._newest, self._name = new_names(self, before), adapter_name

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Fill the newest adapter; peft calls this with the names of this model.

        Raises:
            ValueError: naming the tensors that are missing, unknown or of another shape; nothing is filled then.
        """
        own, plain = dict(state_of(self)), plain_names(self)
        given = {name if name in own else plain.get(name, name): value for name, value in state_dict.items()}
        other = [name for name in given.keys() & own.keys() if given[name].shape != own[name].shape]
        wrong = {
            "lacks": [min(names, key=len) for names in self._newest if not given.keys() & set(names)],
            "holds, beside the adapter,": given.keys() - own.keys(),
            "has another shape of": other,
        }
        if found := "; it ".join(f"{what} {self._shown(names)}" for what, names in wrong.items() if names):
            raise ValueError(f"the file with the adapter's tensors {found}: fetch or save the adapter again")
        return super().load_state_dict(given, *args, **kwargs)

    def _shown(self, names: Iterable[str]) -> str:
        """The first few names, as they stand in a file."""
        found = sorted(name.replace(f".{self._name}", "") for name in names)
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return ", ".join(found[:_SHOWN]) + more


@contextmanager
def loading(folder: Path | str) -> Iterator[None]:
    """Say which folder cannot be loaded, whatever peft raises.

    Args:
        folder: of the adapter.

    Raises:
        ValueError: for peft's errors of other kinds too, but for a full device.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:  # no adapter's fault
        raise
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder}: peft {version('peft')} cannot load this adapter ({said})") from error
