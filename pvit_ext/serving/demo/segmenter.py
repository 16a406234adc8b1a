"""Clicks and boxes to masks: SAM 2 of transformers.

Its image processor needs torchvision, and only resizes and normalises: that is done here, so nothing is needed that
pvit-ext does not have. Source of the numbers: ``Sam2ImageProcessor`` and ``Sam2Processor`` of transformers 5.23.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvit_ext.regions.image import load_image
from pvit_ext.regions.region import Region

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MODEL_TYPES = ("sam2", "sam2_video")
_FOUND = "give a folder of transformers' SAM 2, such as a copy of facebook/sam2.1-hiera-tiny"


class Segmenter:
    """SAM 2, and the features of the picture that it saw last.

    Args:
        model: transformers' ``Sam2Model``, in eval mode.
        mean, std: of its image processor, for each of R, G and B.
    """

    def __init__(self, model: Any, mean: tuple[float, ...] = _MEAN, std: tuple[float, ...] = _STD) -> None:
        self._model, self._mean, self._std = model, mean, std
        self._seen: tuple[str, tuple[int, int], Any] | None = None
        self._lock = threading.Lock()

    def segment(self, image: Path, region: Region) -> NDArray[np.bool_]:
        """The mask of the object that is pointed at: of the several that SAM 2 proposes, the one it rates best.

        Args:
            image: file of the picture.
            region: resolved, a point or a box.

        Returns:
            bool (H, W), of the upright picture's size.

        Raises:
            ValueError: for another kind of region, and where SAM 2 sees no object.
        """
        if region.kind not in ("point", "box"):
            raise ValueError(f"the segmenter takes a point or a box, not a {region.kind}")
        with self._lock, torch.inference_mode():
            size, features = self._features(image)
            prompt = self._prompt(region, size)
            found = self._model(image_embeddings=features, multimask_output=region.kind == "point", **prompt)
            best = found.pred_masks[0, 0, int(found.iou_scores[0, 0].argmax())]  # (h, w)
            large = torch.nn.functional.interpolate(best[None, None].float(), (size[1], size[0]), mode="bilinear")
            mask: NDArray[np.bool_] = (large[0, 0] > 0).cpu().numpy()  # (H, W)
        if not mask.any():
            raise ValueError("the segmenter finds no object there; point at another place, or draw a box around it")
        return mask

    def _features(self, file: Path) -> tuple[tuple[int, int], Any]:
        """Size and features of a picture; those of the last one are kept, since several clicks go to one picture."""
        if self._seen is None or self._seen[0] != str(file):
            image = load_image(file)
            self._seen = str(file), image.size, self._model.get_image_embeddings(self._pixels(image))
        return self._seen[1:]

    def _pixels(self, image: Image.Image) -> Tensor:
        """The picture as the model takes it, float (1, 3, S, S)."""
        side = self._side
        resized = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        values = (resized - np.asarray(self._mean, np.float32)) / np.asarray(self._std, np.float32)  # (S, S, 3)
        return torch.from_numpy(values).permute(2, 0, 1)[None].to(self._model.device, self._model.dtype)

    def _prompt(self, region: Region, size: tuple[int, int]) -> dict[str, Tensor]:
        """The region as the model takes it, in pixels of its square, which it counts by their centres."""
        scale = torch.tensor([self._side / size[0], self._side / size[1]])
        points = (torch.tensor(region.points) * scale - 0.5).to(self._model.device)  # (1 or 2, 2)
        if region.kind == "box":
            return {"input_boxes": points.reshape(1, 1, 4)}
        labels = torch.ones(1, 1, 1, dtype=torch.int, device=points.device)  # 1: on the object
        return {"input_points": points[None, None], "input_labels": labels}

    @property
    def _side(self) -> int:
        size = self._model.config.vision_config.backbone_config.image_size
        return int(size if isinstance(size, int) else size[0])


def load_segmenter(folder: Path, device: str | None = None) -> Segmenter:
    """A SAM 2 from its folder; nothing is fetched.

    Args:
        folder: with ``config.json`` and weights, as ``save_pretrained`` or the hub have them.
        device: default CUDA if there is one, else the CPU.

    Raises:
        ValueError: when it is none, or this transformers has no SAM 2.
        FileNotFoundError: when there is no such folder.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"--segmenter {folder}: there is no config.json in it; {_FOUND}")
    if (kind := json.loads(config.read_text(encoding="utf-8")).get("model_type")) not in _MODEL_TYPES:
        raise ValueError(f"--segmenter {folder} is a {kind}, not SAM 2; {_FOUND}")
    try:
        from transformers import Sam2Model
    except ImportError as error:
        raise ValueError("--segmenter needs a transformers that has SAM 2 (4.56 or newer); upgrade it") from error
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model: Any = Sam2Model.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise ValueError(f"--segmenter {folder}: its weights cannot be read ({error}); fetch it again") from error
    return Segmenter(model.to(target).eval(), *_normalisation(folder))


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of its image processor, SAM 2's own where the folder does not say."""
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return tuple(values.get("image_mean", _MEAN)), tuple(values.get("image_std", _STD))
