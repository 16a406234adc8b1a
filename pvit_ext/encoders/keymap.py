"""One table per encoder between the original's state-dict keys and ours, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from pvit_ext.encoders.regionclip_weights import StateDict, differences, read_checkpoint


@dataclass(frozen=True)
class KeyMap:
    """Beginnings of keys, ours and the original's; what no pair matches has the same name in both.

    Args:
        module: name of the original's module; its keys follow this name, wherever that stands in a full checkpoint.
        pairs: (original, own) beginnings, none a beginning of another.
    """

    module: str
    pairs: tuple[tuple[str, str], ...]

    def to_own(self, tensors: StateDict) -> StateDict:
        """Tensors of the original, or of a whole checkpoint that has them beside others, under our names."""
        found = {key: re.search(rf"(?:^|\.){re.escape(self.module)}\.", key) for key in tensors}
        named = {key[match.end() :]: tensors[key] for key, match in found.items() if match}
        return _renamed(named or tensors, self.pairs)

    def to_original(self, tensors: StateDict) -> StateDict:
        """Our tensors under the original's names, below :attr:`module`."""
        renamed = _renamed(tensors, [(own, original) for original, own in self.pairs])
        return {f"{self.module}.{key}": value for key, value in renamed.items()}

    def load(self, target: nn.Module, path: str) -> None:
        """Load a torch or safetensors file, in the original's names or in ours, into a module.

        Raises:
            ValueError: unless every tensor is there, with the right shape, and no other is.
        """
        tensors = read_checkpoint(path)
        expected = {key: tuple(value.shape) for key, value in target.state_dict().items()}
        given = tensors if tensors.keys() == expected.keys() else self.to_own(tensors)
        if problems := differences(expected, given):
            raise ValueError(f"{path} does not fit this encoder, nothing was loaded. " + "; ".join(problems))
        if any(parameter.is_meta for parameter in target.parameters()):
            raise ValueError(
                f"cannot load {path} into an encoder on the meta device; build it outside the meta context"
            )
        target.load_state_dict(given)


def _renamed(tensors: StateDict, pairs: Iterable[tuple[str, str]]) -> StateDict:
    result = {}
    for key, value in tensors.items():
        found = next(((old, new) for old, new in pairs if key.startswith(old)), ("", ""))
        result[found[1] + key[len(found[0]) :]] = value
    return result
