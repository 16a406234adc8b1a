"""Tags by a detector in ONNX: the classes that it finds anywhere in an image.

The worked example is FastestDet (https://github.com/dog-qiuqiu/FastestDet, BSD-3-Clause), 1 MB with the 80 classes of
COCO. Its output (1, 5 + K, H, W) has objectness, four numbers of a box and K classes for each cell; a cell's score is
``objectness ** 0.6 * class ** 0.4``, as in that repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BOX = 5
"""Channels before the classes."""


@dataclass(frozen=True)
class OnnxDetector:
    """A detector with one output map.

    Args:
        path: of the model.
        names: K, of its classes.
        threshold: of a cell's score.
    """

    path: Path
    names: tuple[str, ...]
    threshold: float

    @cached_property
    def session(self) -> Any:
        """The loaded model, on one core: workers run side by side.

        Raises:
            ValueError: where onnxruntime is not installed, and for a file that is no model with one image as input.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{self.path} needs onnxruntime ({error}): pip install 'pvit-ext[tags]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no base of their own
            raise ValueError(f"{self.path} is no ONNX model that onnxruntime reads: {error}") from error
        if not _takes_an_image(given := session.get_inputs()):
            taken = ", ".join(f"{one.type} {one.shape}" for one in given) or "nothing"
            raise ValueError(
                f"{self.path} takes {taken}, a detector here takes one image, tensor(float) [1, 3, H, W] of fixed size"
            )
        return session

    def check(self) -> None:
        """Look at a blank image.

        Raises:
            ValueError: for a file that is no detector of these classes, see :attr:`session` and :meth:`scores`.
        """
        self.scores(Image.new("RGB", (1, 1)))

    def __getstate__(self) -> dict[str, Any]:
        """Without the session, which each process opens for itself."""
        return {key: value for key, value in vars(self).items() if key != "session"}

    def __call__(self, image: Image.Image) -> list[str]:
        """Names of the classes that are found in an upright RGB image, the surest first."""
        scores = self.scores(image)
        return [self.names[number] for number in np.argsort(-scores, kind="stable") if scores[number] > self.threshold]

    def scores(self, image: Image.Image) -> NDArray[np.float32]:
        """The best score of each class, float32 (K,), 0 for one that no cell has as its best.

        Raises:
            ValueError: for a model that fails, and one with another output than one map of 5 + K channels.
        """
        given = self.session.get_inputs()[0]
        height, width = given.shape[2:]
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, np.float32)[:, :, ::-1].transpose(2, 0, 1)[None] / 255  # BGR (1, 3, H, W)
        try:
            output = self.session.run(None, {given.name: np.ascontiguousarray(pixels)})[0]
        except Exception as error:  # onnxruntime's classes have no base of their own
            raise ValueError(f"{self.path} cannot take an image: {type(error).__name__}: {error}") from error
        shape = getattr(output, "shape", ())
        if len(shape) != 4 or shape[:2] != (1, _BOX + len(self.names)):
            wanted, count = (1, _BOX + len(self.names), "H", "W"), len(self.names)
            raise ValueError(f"{self.path} gives {shape}, with {count} names it would be {wanted}")
        cells = output[0].reshape(output.shape[1], -1)  # (5 + K, N)
        classes = cells[_BOX:]
        best, score = classes.argmax(0), cells[0] ** 0.6 * classes.max(0) ** 0.4  # (N,)
        scores = np.zeros(len(self.names), np.float32)
        np.maximum.at(scores, best, score.astype(np.float32))
        return scores


def _takes_an_image(inputs: list[Any]) -> bool:
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        return False
    _, channels, *sides = inputs[0].shape  # a size that is free is a name or None
    return channels == 3 and all(isinstance(side, int) for side in sides)
