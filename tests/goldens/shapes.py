"""The original's state dict of a golden: keys and shapes from its header, tensors by :func:`rules.weight`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from tests.goldens import rules


def header(name: str, key: str) -> Any:
    with safe_open(Path(__file__).parent / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


def ruled_state_dict(name: str, module: str, seed: int) -> dict[str, Tensor]:
    """Every tensor of ``module``, under the original's full keys."""
    keys = {f"{module}.{key.removeprefix(module + '.')}": shape for key, shape in header(name, "shapes").items()}
    return {key: rules.weight(key, shape, seed) for key, shape in keys.items()}
