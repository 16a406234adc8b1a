"""Several adapters on one base model, one of which answers at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.layers import has_adapter
from pvit_ext.adapters.lion.parts import starts_at_random
from pvit_ext.adapters.lora import NON_LORA_FILE, PEFT_PREFIX, config_of, read_adapter, split_adapter
from pvit_ext.adapters.quantization import Quantization, check_trained_bits
from pvit_ext.adapters.refusals import tuner_of
from pvit_ext.adapters.tensors import plain_name, plain_names, state_of
from pvit_ext.adapters.undo import processor_undone_on_failure, undone_on_failure
from pvit_ext.config import APPENDED, CONFIG_KEY
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind
from pvit_ext.hosts.loading import attach
from pvit_ext.hosts.trained_on import check_base
from pvit_ext.tokens.serialization import MODULES_FILE, load_region_modules, read_region_config

_MOVES_BASE = ("pissa", "olora")
_MOVING_FIELDS = ("kasa_config",)
_ALONE = "target_parameters"
"""Field of peft's LoRA that wraps a tensor, which nothing else may have wrapped."""
_TOKENS = "trainable_token_indices"
_PREFIX = "result_"
"""Of our names in peft, which would take some for attributes of modules (``keys``) or for parts of its own names."""


class Adapters:
    """LoRA results on one loaded model: their adapters, and the region modules and projectors that trained with them.

    The model stays the object that it is. Switching copies a few megabytes, and moves no weight of the language model.

    Args:
        model: of :func:`~pvit_ext.load_pretrained_model`, of either host: the base of the results.
        processor: of a model of transformers.
    """

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model, self.processor = model, processor
        self.active: str | None = None
        self._wrapped: Any = None
        self._tensors: dict[str, dict[str, Tensor]] = {}  # of each result, beside its adapter
        self._base: dict[str, Tensor] = {}
        self._templates: dict[str | None, str | None] = {}  # that `ask` goes by; the base's under None

    @property
    def names(self) -> list[str]:
        """The names of the added results."""
        return list(self._tensors)

    def add(self, name: str, folder: str | Path) -> None:
        """Load a result beside the others; :meth:`use` makes it the one that answers.

        Args:
            name: to call it by.
            folder: LLaVA's or ours.

        The result that is active stays so; while this runs, the base is in place. A base that the folder names and that
        cannot be compared with the model is a warning, and so is a model that is quantised under an adapter of full
        weights. If it fails, the model and its processor stay as they were.

        Raises:
            ValueError: for a name that is taken or none, a folder without an adapter or without all of its tensors, one
                that was trained on other weights or on other few bits, one whose region modules are others than the
                model's or append rows to images of a model that has none, an adapter that changes the weights under it,
                or a model that has an adapter on it already.
        """
        if self._wrapped is None and any(map(has_adapter, self.model.modules())):
            raise ValueError("the model has adapters already: load its base anew, and add all results to one Adapters")
        if name in self._tensors:
            raise ValueError(f"{name!r} is taken: give a name that none of {self.names} has")
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"{name!r} is no name: give letters, digits and _, with no digit in front")
        kind = self._kind_of(str(folder))
        if not kind.adapter or kind.folder is None:
            raise ValueError(f"{kind}: no adapter to put beside others")
        check_base(self.model, kind)
        bits, weights = self._check_bits(kind.folder), read_adapter(kind.folder)
        config = config_of(self.model, kind.folder, weights, bits)
        self._check_beside_others(config, folder)
        before = self.active
        self.use(None)
        try:
            self._put(name, kind.folder, config, weights, kind.regions)
        finally:
            self.use(before)

    def use(self, name: str | None) -> None:
        """Answer with a result; for None, with the base.

        Raises:
            ValueError: for a name that was not added.
        """
        if name is not None and name not in self._tensors:
            raise ValueError(f"no adapter {name!r} was added; there are {', '.join(self.names) or 'none'}")
        if self._wrapped is None:
            return
        if name is None:
            self._wrapped.base_model.disable_adapter_layers()
        else:
            self._wrapped.base_model.enable_adapter_layers()
            self._wrapped.set_adapter(_PREFIX + name)
            self._wrapped.requires_grad_(False)
        self._copy(self._base if name is None else self._base | self._tensors[name])
        if (stored := getattr(self.model.config, CONFIG_KEY, None)) is not None:
            setattr(self.model.config, CONFIG_KEY, {**stored, "conv_version": self._templates[name]})
        self.active = name

    def _kind_of(self, folder: str) -> CheckpointKind:
        """What a folder holds; the model stands for a base that is not here."""
        try:
            return find_kind(folder)
        except FileNotFoundError:
            if not (own := self.model.name_or_path):
                raise
            return find_kind(folder, own)

    def _check_beside_others(self, config: Any, folder: str | Path) -> None:
        """Refuse an adapter that would change the others' answers, or that peft cannot put beside them."""
        if mover := _moves_base(config):
            raise ValueError(f"{folder}: {mover} changes the weights under it, and would change them for all others")
        there = [] if self._wrapped is None else list(self._wrapped.peft_config.values())
        if others := {tuner_of(one) for one in there} - {tuner_of(config)}:
            raise ValueError(f"{folder}: {tuner_of(config)} does not go beside {others.pop()}; merge one of them")
        if any(getattr(one, _TOKENS, None) for one in there) and not getattr(config, _TOKENS, None):
            raise ValueError(f"{folder}: only another with {_TOKENS} goes beside one that has them; merge one of them")
        if there and any(getattr(one, _ALONE, None) for one in (config, *there)):
            raise ValueError(f"{folder}: an adapter with {_ALONE} does not go beside another; merge one of them")

    def _check_bits(self, folder: Path) -> int:
        """Bits per weight of the model; an adapter of other few bits is refused."""
        own = Quantization.of_model(self.model)
        check_trained_bits(folder, own)
        return 16 if own is None else own.bits

    def _take_regions(self, folder: Path) -> None:
        """Attach a result's region modules if the model has none; else check that they are of the same kind.

        Those of the first result take regions for the base too; without regions it answers as before.
        """
        saved, own = read_region_config(folder), getattr(self.model, "region_config", None)
        if own is None:
            if saved.config.lion_aggregator == APPENDED:
                raise ValueError(
                    f"{folder} appends rows to every image, which the model has none of: it would have them without a "
                    "result too. If it may, attach region modules with its options to the model first: "
                    f"pvit_ext.attach(model, pvit_ext.{saved.config})"
                )
            attach(self.model, saved.config, str(folder), True, saved.facts, self.processor)
            load_region_modules(self.model, folder)
            for name, part in self.model.region_module.lion.items():
                if not starts_at_random(name, saved.config):
                    part.reset()  # the base answers as without it; use() brings what the result has learned
        elif others := own.unlike(saved.config):
            raise ValueError(
                f"{folder} has other region modules than the model: {others}; load it as a model of its own "
                "(load_pretrained_model), or put it on its base without region modules"
            )

    def _put(self, name: str, folder: Path, config: Any, weights: dict[str, Tensor], regions: bool) -> None:
        """Take all of a result, or nothing, while the base's own tensors are in place."""
        from pvit_ext.adapters.saved import loading

        wrapped, own = self._wrapped, getattr(self.model, "region_config", None)
        attaches = regions and own is None
        base = None if own is None else own.conv_version
        with (
            undone_on_failure(self.model if wrapped is None else wrapped),
            processor_undone_on_failure(self.processor if attaches else None),
        ):
            if regions:
                self._take_regions(folder)
            adapter, biases = split_adapter(self.model, weights)
            tensors = biases | self._beside(folder)
            replaced = self._replaced_by(tensors, folder)
            with loading(folder):
                wrapped = self._insert(name, config, adapter)
        self._wrapped, self._tensors[name], self._base = wrapped, tensors, replaced | self._base
        trained = read_region_config(folder).config.conv_version if regions else None
        self._templates |= {None: base, name: base if trained is None else trained}

    def _beside(self, folder: Path) -> dict[str, Tensor]:
        """The tensors of a folder beside its adapter, by the names that they have in a model without adapters."""
        names = {id(tensor): name for name, tensor in state_of(self.model)}
        own: dict[str, str] = {}
        module = getattr(self.model, "region_module", None)
        parts = {} if module is None else module.parts()
        for part, of_part in parts.items():
            own |= {f"{part}.{key}": names[id(tensor)] for key, tensor in state_of(of_part)}
        found = {own.get(key, key): value for key, value in _read(folder / MODULES_FILE).items()}
        others = {key.removeprefix(PEFT_PREFIX): value for key, value in _read(folder / NON_LORA_FILE).items()}
        return found | {plain_name(key): value for key, value in others.items()}

    def _replaced_by(self, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
        """Copies of the base's own tensors that a result's stand in for; all of these have to fit."""
        own = self._own()
        if unknown := sorted(tensors.keys() - own.keys()):
            raise ValueError(f"{folder}: trained tensors that the model lacks: {', '.join(unknown)}")
        if wrong := sorted(key for key, value in tensors.items() if value.shape != own[key].shape):
            raise ValueError(f"{folder}: trained tensors of other shapes than the model's: {', '.join(wrong)}")
        return {key: own[key].clone() for key in tensors.keys() - self._base.keys()}

    def _insert(self, name: str, config: Any, weights: dict[str, Tensor]) -> Any:
        """Put an adapter on the model; peft's wrapper."""
        from peft import set_peft_model_state_dict

        from pvit_ext.adapters.saved import SavedAdapter

        wrapped = self._wrapped
        if wrapped is None:
            wrapped = SavedAdapter(self.model, config, _PREFIX + name)
        else:
            wrapped.add_adapter(_PREFIX + name, config)
        set_peft_model_state_dict(wrapped, weights, adapter_name=_PREFIX + name)
        wrapped.requires_grad_(False)
        wrapped.eval()
        return wrapped

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        own = self._own()
        with torch.no_grad():
            for key, value in tensors.items():
                own[key].copy_(value)

    def _own(self) -> dict[str, Tensor]:
        """The model's tensors by the names that they have without adapters."""
        tensors = self.model.state_dict()
        return {plain: tensors[name] for plain, name in plain_names(self.model).items()}


def _moves_base(config: Any) -> str | None:
    """What in a config of peft changes the base's weights; None if nothing does."""
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start.startswith(_MOVES_BASE):
        return start
    return next((name for name in _MOVING_FIELDS if getattr(config, name, None) is not None), None)


def _read(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path) if path.is_file() else {}
