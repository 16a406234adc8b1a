"""Reading other projects' weights: safely, all of them or none, and renamed to our names by one table per encoder."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

LISTED = 10
StateDict = dict[str, Tensor]


def read_checkpoint(path: str | os.PathLike[str], device: str = "cpu") -> StateDict:
    """The tensors of a torch or safetensors file; code in it is never run.

    Raises:
        ValueError: when the file is damaged, is a TorchScript archive, or holds something else than tensors.
    """
    with _reading(path):
        if _is_safetensors(path):
            return load_file(path, device)
        _refuse_torchscript(path)
        content = torch.load(path, map_location=device, weights_only=True)
    content = _unwrap(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def names_in(path: str | os.PathLike[str]) -> list[str]:
    """The names of a file's tensors; of a safetensors file no tensor is read.

    Raises:
        ValueError: see :func:`read_checkpoint`.
    """
    if not _is_safetensors(path):
        return list(read_checkpoint(path))
    with _reading(path), safe_open(path, "pt") as file:
        return list(file.keys())


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    return str(path).endswith(".safetensors")


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or no plain state dict ({reason}): fetch it again. If it is one of OpenAI's "
            "TorchScript archives and you trust it, convert it once: "
            "torch.save(torch.jit.load(path).state_dict(), new_path)"
        ) from error


def _refuse_torchscript(path: str | os.PathLike[str]) -> None:
    """torch 2.0 loads such an archive, code and all, even where only weights are asked for; later ones refuse it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise pickle.UnpicklingError("a TorchScript archive")


def _unwrap(content: Any) -> Any:
    inner = content.get("model") if isinstance(content, Mapping) else None
    return inner if isinstance(inner, Mapping) else content


def check_fits(module: nn.Module, given: StateDict, expected: Mapping[str, tuple[int, ...]], path: Any) -> None:
    """Raise unless a module can be filled with exactly these tensors.

    Args:
        module: to be filled.
        given: tensors of a file.
        expected: keys and shapes that the file shall have.
        path: of the file.

    Raises:
        ValueError: listing what is missing, unexpected or of another shape.
    """
    if problems := differences(expected, given):
        raise ValueError(f"{path} does not fit this {type(module).__name__}, nothing was loaded. {'; '.join(problems)}")
    if any(parameter.is_meta for parameter in module.parameters()):
        raise ValueError(f"cannot load {path} into a module on the meta device; build it outside the meta context")


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a state dict."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def differences(expected: Mapping[str, tuple[int, ...]], given: StateDict) -> list[str]:
    """What is missing, unexpected or of another shape, in words; empty when all fits."""
    found = shapes({key: given[key] for key in sorted(given.keys() & expected.keys())})
    lists = {
        "missing": sorted(expected.keys() - given.keys()),
        "unexpected": sorted(given.keys() - expected.keys()),
        "of another shape": [f"{k} {v} instead of {expected[k]}" for k, v in found.items() if v != expected[k]],
    }
    return [f"{len(keys)} of {len(expected)} {what}: {_listed(keys)}" for what, keys in lists.items() if keys]


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")


@dataclass(frozen=True)
class KeyMap:
    """Prefixes of keys, ours and the original's; a key that no pair matches is the same in both.

    Args:
        module: name of the original's module; its keys follow this name anywhere in a full checkpoint.
        pairs: (original, own) prefixes; none is a prefix of another.
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

    def load(self, target: nn.Module, path: str, adapt: Callable[[StateDict], StateDict] = dict) -> None:
        """Load a torch or safetensors file, in the original's names or in ours, into a module.

        Args:
            target: the module.
            path: of the file.
            adapt: changes the original's tensors beyond their names.

        Raises:
            ValueError: unless every tensor is there, with the right shape, and no other is.
        """
        tensors, expected = read_checkpoint(path), shapes(target.state_dict())
        given = tensors if tensors.keys() == expected.keys() else self.to_own(adapt(tensors))
        check_fits(target, given, expected, path)
        target.load_state_dict(given)


def _renamed(tensors: StateDict, pairs: Iterable[tuple[str, str]]) -> StateDict:
    pairs, result = list(pairs), {}
    for key, value in tensors.items():
        found = next(((old, new) for old, new in pairs if key.startswith(old)), ("", ""))
        result[found[1] + key[len(found[0]) :]] = value
    return result
