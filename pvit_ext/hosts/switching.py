"""Several adapters on one base model, one of which answers at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lora import NON_LORA_FILE, PEFT_PREFIX, config_of, read_adapter
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.adapters.refusals import tuner_of
from pvit_ext.adapters.tensors import state_of
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.files import fingerprint
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind
from pvit_ext.hosts.loading import attach
from pvit_ext.tokens.serialization import MODULES_FILE, load_region_modules, read_region_config

_MOVES_BASE = ("pissa", "olora")
_MOVING_FIELDS = ("kasa_config",)

logger = logging.getLogger(__name__)


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

    @property
    def names(self) -> list[str]:
        """The names of the added results."""
        return list(self._tensors)

    def add(self, name: str, folder: str | Path) -> None:
        """Load a result beside the others; :meth:`use` makes it the one that answers.

        Args:
            name: to call it by.
            folder: LLaVA's or ours.

        A base that the folder names and that cannot be compared with the model is a warning, and so is a model that is
        quantised under an adapter of full weights.

        Raises:
            ValueError: for a name that is taken, a folder without an adapter, one that was trained on other weights or
                on fewer bits, one whose region modules are others than the model's, or an adapter that changes the
                weights under it.
        """
        if name in self._tensors or not name.isidentifier():
            raise ValueError(f"{name!r} is taken or no name: give letters and digits that none of {self.names} has")
        kind = self._kind_of(str(folder))
        if not kind.adapter or kind.folder is None:
            raise ValueError(f"{kind}: no adapter to put beside others")
        self._check_base(kind)
        config = config_of(self.model, kind.folder, self._check_bits(kind.folder))
        if mover := _moves_base(config):
            raise ValueError(f"{folder}: {mover} changes the weights under it, and would change them for all others")
        others = {tuner_of(one) for one in self._wrapped.peft_config.values()} if self._wrapped is not None else set()
        if others - {tuner_of(config)}:
            raise ValueError(f"{folder}: {tuner_of(config)} does not go beside {others.pop()}; merge one of them")
        self.use(None)
        if kind.regions:
            self._take_regions(kind.folder)
        tensors = self._beside(kind.folder)
        self._insert(name, config, read_adapter(kind.folder))
        self._keep(name, tensors, folder)

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
            self._wrapped.set_adapter(name)
            self._wrapped.requires_grad_(False)
        self._copy(self._base if name is None else self._base | self._tensors[name])
        self.active = name

    def _kind_of(self, folder: str) -> CheckpointKind:
        """What a folder holds; the model stands for a base that is not here."""
        try:
            return find_kind(folder)
        except FileNotFoundError:
            if not (own := self.model.name_or_path):
                raise
            return find_kind(folder, own)

    def _check_base(self, kind: CheckpointKind) -> None:
        """Refuse an adapter of other weights than the model's, and warn where that cannot be told."""
        own, named = str(self.model.name_or_path), str(kind.recorded or kind.base)
        if Path(own).resolve() == Path(named).resolve():
            return
        ours, others = (_weight_files(Path(one)) for one in (own, named))
        if not ours or [path.stat().st_size for path in ours] != [path.stat().st_size for path in others]:
            text = "%s was trained on %s, the model is %s: right only if both hold the same weights"
            logger.warning(text, kind.path, named, own or "of no folder")
        elif list(map(fingerprint, ours)) != list(map(fingerprint, others)):
            raise ValueError(
                f"{kind.path} was trained on {named}, whose weights are others than those of the model, {own}: load "
                f"{named} in its place"
            )

    def _check_bits(self, folder: Path) -> int:
        """Bits per weight of the model; an adapter of fewer bits is refused, since it makes up for their rounding."""
        own = Quantization.of_model(self.model)
        if (trained := Quantization.of_folder(folder)) != own:
            text = (
                f"{folder} was trained on a base in {trained or 'its dtype'}, and the model is in {own or 'its dtype'}"
            )
            if trained is not None:
                raise ValueError(f"{text}: load the model in the same bits (load_{trained.bits}bit=True), or merge")
            logger.warning("%s: its answers are off by the rounding", text)
        return 16 if own is None else own.bits

    def _take_regions(self, folder: Path) -> None:
        """Attach a result's region modules if the model has none; else check that they are of the same kind."""
        saved, own = read_region_config(folder), getattr(self.model, "region_config", None)
        if own is None:
            attach(self.model, saved.config, str(folder), True, saved.facts, self.processor)
            load_region_modules(self.model, folder)
        elif own != saved.config:
            raise ValueError(f"{folder} has other region modules than the model: {saved.config}, not {own}")

    def _beside(self, folder: Path) -> dict[str, Tensor]:
        """The tensors of a folder beside its adapter, by the model's names."""
        modules, others = folder / MODULES_FILE, folder / NON_LORA_FILE
        names = {id(tensor): name for name, tensor in state_of(self.model)}
        own: dict[str, str] = {}
        module = getattr(self.model, "region_module", None)
        parts = {} if module is None else module.parts()
        for part, of_part in parts.items():
            own |= {f"{part}.{key}": names[id(tensor)] for key, tensor in state_of(of_part)}
        found = {own[key]: value for key, value in _read(modules).items()}
        return found | {key.removeprefix(PEFT_PREFIX): value for key, value in _read(others).items()}

    def _insert(self, name: str, config: Any, weights: dict[str, Tensor]) -> None:
        from peft import get_peft_model, set_peft_model_state_dict

        if self._wrapped is None:
            self._wrapped = get_peft_model(self.model, config, name)
        else:
            self._wrapped.add_adapter(name, config)
        set_peft_model_state_dict(self._wrapped, weights, adapter_name=name)
        self._wrapped.requires_grad_(False)
        self._wrapped.eval()

    def _keep(self, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        """Keep a result's tensors, and the base's own that they replace."""
        own = self.model.state_dict()
        if unknown := sorted(tensors.keys() - own.keys()):
            raise ValueError(f"{folder} trained tensors that the model lacks: {unknown}")
        self._tensors[name] = tensors
        self._base = {key: own[key].clone() for key in tensors} | self._base
        self.use(None)

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        own = self.model.state_dict()
        with torch.no_grad():
            for key, value in tensors.items():
                own[key].copy_(value)


def _moves_base(config: Any) -> str | None:
    """What in a config of peft changes the base's weights; None if nothing does."""
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start.startswith(_MOVES_BASE):
        return start
    return next((name for name in _MOVING_FIELDS if getattr(config, name, None) is not None), None)


def _weight_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's weights; none where it is not here."""
    kinds = (sorted(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))
    return next((found for found in kinds if found), [])


def _read(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path) if path.is_file() else {}
