"""The vision tower of one of transformers' models as a cache stores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import nn

from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.nested import Output
from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.data.schema import images_of
from pvit_ext.hosts.stored_vision import noting_output, returning_output
from pvit_ext.hosts.transformers.host import TransformersHost
from pvit_ext.hosts.transformers.stored_processor import Noting, with_images_by
from pvit_ext.hosts.vision_pass import moved
from pvit_ext.tokens.processor import RegionSample

BLANK_SIZE = (28, 28)
_HIDDEN = "hidden_states"
_READ_OF: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


class TransformersVisionPass:
    """See :class:`~pvit_ext.hosts.vision_pass.VisionPass`.

    Args:
        model: with regions, perhaps in peft's wrapper.
        processor: of it.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        self.host: TransformersHost = base.base_model.region_host
        self.processor, self._noting = processor, Noting()
        self._noted = with_images_by(processor, self._noting)

    @property
    def axis(self) -> int:
        """The family's."""
        return self.host.family.images_along

    @property
    def module(self) -> nn.Module:
        """The tower, with the modules at its end that merge cells, if it has any."""
        return self.host.tower

    @property
    def image_processor(self) -> Any:
        """The processor's."""
        return self.processor.image_processor

    @property
    def layers(self) -> list[int]:
        """The layers that the model and the region encoder read."""
        count = self.host.tower_config.num_hidden_layers + 1
        return sorted({layer % count for layer in self.host.layers_to_keep()})

    def settings(self) -> dict[str, Any]:
        """The name of the image processor."""
        return {"image processor": type(self.processor.image_processor).__name__}

    def prepare(self, image: Image.Image | None) -> dict[str, Any]:
        """The image processor's output, with the options that its processor gives it."""
        image = Image.new("RGB", BLANK_SIZE) if image is None else image
        text = self.processor.image_token
        self._noted.encode([RegionSample([image], [text], [], [image.size], [None])], return_tensors="pt")
        return self._noting.made

    def run(self, prepared: Mapping[str, Any]) -> None:
        """Run the tower as a forward does."""
        self.host.run_tower(dict(prepared))

    def keep(self, output: Any) -> Any:
        """The parts that the model reads; of the hidden layers, those that the model or the region encoder reads."""
        parts = {name: output[name] for name in output if name in self._read}
        hidden = parts.get(_HIDDEN)
        if hidden is not None:
            parts[_HIDDEN] = [one if number in self.layers else None for number, one in enumerate(hidden)]
        return Output(**parts)

    @property
    def _read(self) -> set[str]:
        """Names of the parts that the model reads, noted once for a tower while it reads."""
        if self.module not in _READ_OF:
            _READ_OF[self.module] = self._note_read()
        return _READ_OF[self.module]

    @torch.no_grad()
    def _note_read(self) -> set[str]:
        prepared = moved(self.prepare(None), next(self.module.parameters()).device)
        with noting_output(self.module) as found:
            self.run(prepared)
        watched = _Watched(**found[-1])
        with returning_output(self.module, watched):
            self.run(prepared)
        return watched.read

    def refuse(self, records: Iterable[Any]) -> None:
        """Refuse records of several images if the family prepares them differently from one alone."""
        if not self.host.family.prepares_several_differently:
            return
        for record in records:
            if len(images_of(record.data)) > 1:
                raise CacheError(
                    f"{record.location} has several images, which a {type(self.processor.image_processor).__name__} "
                    "prepares differently from one alone: keep such records out, or train without the cache"
                )

    def connect(self, dataset: RecordDataset, stored: StoredVision) -> None:
        """Let both read the stored outputs."""
        self.host.inner.stored_vision = stored
        dataset.use_stored(dataset.region_processor.stored_maps, stored)


class _Watched(SimpleNamespace):
    """An output that notes which of its parts are read.

    Attributes:
        read: names.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.__dict__["_names"], self.__dict__["read"] = set(parts), set()

    def __getattribute__(self, name: str) -> Any:
        values = super().__getattribute__("__dict__")
        if name in values.get("_names", ()):
            values["read"].add(name)
        return super().__getattribute__(name)
