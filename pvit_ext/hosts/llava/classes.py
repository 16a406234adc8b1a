"""LLaVA's model classes with regions, and which of them a checkpoint asks for.

The classes carry the names of those they replace: transformers writes the name into config.json (``architectures``).
"""

from __future__ import annotations

import logging
from typing import Any

import transformers
from llava.model import llava_arch
from llava.model.language_model import llava_llama, llava_mistral, llava_mpt
from llava.model.multimodal_encoder import clip_encoder
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    MptForCausalLM,
    PretrainedConfig,
)

from pvit_ext.distributed import gathered, loading
from pvit_ext.hosts.llava.model import RegionMixin
from pvit_ext.hosts.llava.vision_tower import VISION_TOWERS, of_a_plugin, registered_tower

logger = logging.getLogger(__name__)

_initialize_vision_modules = llava_arch.LlavaMetaModel.initialize_vision_modules
_build_vision_tower = llava_arch.build_vision_tower

# transformers 5 gives the name to a class on torchvision, where that is installed. LLaVA's models learnt on Pillow's
# pixels, which differ by up to one level in 255. A fork's own class stays.
CLIPImageProcessor = clip_encoder.CLIPImageProcessor
if CLIPImageProcessor.__module__.startswith("transformers."):
    CLIPImageProcessor = getattr(transformers, "CLIPImageProcessorPil", CLIPImageProcessor)


class LlavaLlamaForCausalLM(RegionMixin, llava_llama.LlavaLlamaForCausalLM):
    """LLaVA on LLaMA or Vicuna, with regions."""

    language_model_class = LlamaForCausalLM


class LlavaMistralForCausalLM(RegionMixin, llava_mistral.LlavaMistralForCausalLM):
    """LLaVA on Mistral, with regions."""

    language_model_class = MistralForCausalLM


class LlavaMptForCausalLM(RegionMixin, llava_mpt.LlavaMptForCausalLM):
    """LLaVA on MPT, with regions."""

    language_model_class = MptForCausalLM
    fast_tokenizer = True  # GPT-NeoX's has no other form
    llava_generates = False  # it hands prompts with IMAGE_TOKEN_INDEX to transformers

    @property
    def model(self) -> Any:
        """LLaVA's splice of anyres tiles reads ``model.image_newline``, which MPT keeps under ``transformer``."""
        return self.transformer

    def get_input_embeddings(self) -> Any:
        """Avoid ``model``, by which transformers 5 would find LLaVA's method ``embed_tokens``."""
        return self.transformer.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Avoid ``model`` here too."""
        self.transformer.set_input_embeddings(value)


REGION_CLASSES: tuple[Any, ...] = (LlavaLlamaForCausalLM, LlavaMistralForCausalLM, LlavaMptForCausalLM)


def region_class(stock: type) -> Any:
    """The region class for a LLaVA model class.

    Raises:
        TypeError: for any other class.
    """
    for candidate in REGION_CLASSES:
        if issubclass(stock, candidate.__bases__[1]):
            return candidate
    raise TypeError(f"{stock.__name__} is no LLaVA class; known: {[known.__name__ for known in REGION_CLASSES]}")


def region_class_of_config(config: Any) -> Any:
    """The region class for a config object of LLaVA's.

    Raises:
        ValueError: for a config of another model.
    """
    for candidate in REGION_CLASSES:
        if isinstance(config, candidate.config_class):
            return candidate
    raise ValueError(f"model_type {config.model_type!r} is no LLaVA checkpoint; known: {_known_types()}")


def region_class_of_values(values: dict[str, Any], origin: str, plain: bool = False) -> Any:
    """The region class for what a config.json holds.

    LLaVA's own types name their class. Other checkpoints are LLaVA's if their config has its ``mm_vision_tower``, or
    names one of its classes: stock LLaVA loads them whatever ``model_type`` says (``llava``, ``llama`` or nothing), and
    ``architectures`` decides. transformers' own ``llava`` nests ``text_config`` and ``vision_config``.

    Args:
        values: of config.json.
        origin: the checkpoint, for messages.
        plain: also take a plain language model, to make a LLaVA of.

    Raises:
        FileNotFoundError: where there is no config.json.
        ValueError: for any other model.
    """
    found, names = values.get("model_type"), values.get("architectures") or []
    if not values:
        raise FileNotFoundError(f"{origin} has no config.json: name the folder of a checkpoint")
    if "text_config" in values or "vision_config" in values:
        raise ValueError(
            f"{origin} is a checkpoint of transformers' own {found!r} ({', '.join(names) or 'no architectures'}), but "
            "the llava host takes those of LLaVA's code (architectures Llava...ForCausalLM)"
        )
    known = {kind: candidate for candidate in REGION_CLASSES for kind in _model_types(candidate)[: 1 + plain]}
    if found in known:
        return known[found]
    if (candidate := _class_by_name(values)) is None:
        detail = f", architectures {names}" if names else ""
        raise ValueError(f"{origin}: model_type {found!r}{detail} is no LLaVA checkpoint; known: {sorted(known)}")
    logger.info("%s is LLaVA's own checkpoint of model_type %r, loaded as %s", origin, found, candidate.__name__)
    return candidate


def _class_by_name(values: dict[str, Any]) -> Any:
    """The region class that ``architectures`` names, by LLaVA's name or its language model's; None for no LLaVA."""
    names, language = values.get("architectures") or [], {one: kind for kind in REGION_CLASSES for one in _names(kind)}
    own = {kind.__name__: kind for kind in REGION_CLASSES}
    if named := [own[name] for name in names if name in own]:
        return named[0]
    if values.get("model_type") != "llava" and not values.get("mm_vision_tower"):
        return None
    if not names:  # then stock LLaVA takes LLaMA, if the model_type names no other
        return language.get(str(values.get("model_type")), LlavaLlamaForCausalLM)
    return next((language[name] for name in names if name in language), None)


def _names(candidate: Any) -> tuple[str, str]:
    """Class and model_type of the language model alone."""
    return candidate.language_model_class.__name__, candidate.language_model_class.config_class.model_type


def load_config(path: str, values: dict[str, Any] | None = None) -> Any:
    """LLaVA's config of a checkpoint, of the class that the checkpoint asks for.

    Args:
        path: folder or hub id.
        values: in place of its config.json.

    Raises:
        ValueError: when it is no LLaVA checkpoint.
    """
    values = PretrainedConfig.get_config_dict(path)[0] if values is None else values
    config_class = region_class_of_values(values, path).config_class
    config = config_class.from_dict({**values, "model_type": config_class.model_type})
    config.name_or_path = path
    return config


class ByModelType:
    """Chooses the class to train by a checkpoint's config; LLaVA's ``train()``, which goes by the path, gets this."""

    @staticmethod
    def from_pretrained(path: str, config: Any = None, **kwargs: Any) -> Any:
        """Load a LLaVA checkpoint, or a plain language model to make one of, as the region class for its model type.

        Args:
            path: folder or hub name.
            config: not used; LLaVA gives one for MPT, to name an attention kernel that transformers' MPT lacks.
            kwargs: for ``from_pretrained``.

        Raises:
            ValueError: for another kind of model.
        """
        values, _ = PretrainedConfig.get_config_dict(path)
        candidate = region_class_of_values(values, path, plain=True)
        other = values.get("model_type") != candidate.config_class.model_type
        if other and _class_by_name(values) is not None:  # a LLaVA under another model_type
            kwargs["config"] = load_config(path, values)
        return candidate.from_pretrained(path, **{"torch_dtype": None, **kwargs})


def build_vision_tower(vision_tower_cfg: Any, **keywords: Any) -> Any:
    """Build the registered tower of that name, or else by LLaVA's function, which knows CLIP alone.

    Args:
        vision_tower_cfg: LLaVA's config, or its model arguments.
        keywords: ``delay_load`` while a model is made, whose weights are read afterwards.

    Raises:
        ValueError: for a name that neither knows.
    """
    with loading():
        tower = registered_tower(vision_tower_cfg)
        if tower is None:
            return _llavas_own_tower(vision_tower_cfg, **keywords)
        if not keywords.get("delay_load"):
            tower.load_model()
        return tower


def _llavas_own_tower(vision_tower_cfg: Any, **keywords: Any) -> Any:
    try:
        return _build_vision_tower(vision_tower_cfg, **keywords)
    except ValueError as error:
        said, _, name = str(error).partition(": ")
        if said != "Unknown vision tower":
            raise
        raise ValueError(
            f"{error}: LLaVA takes a folder, or a CLIP of openai's or laion's; {of_a_plugin(name)}"
        ) from error


def initialize_vision_modules(self: Any, model_args: Any, *args: Any, **keywords: Any) -> None:
    """LLaVA's method, with ``mm_projector`` whole while ``--pretrain_mm_mlp_adapter`` is loaded into it.

    The projector of a LLaVA checkpoint is made under ``zero.Init``, where ZeRO-3 leaves tensors of size 0 ("size
    mismatch for 0.weight", deepspeed 0.19.8); one that LLaVA makes here for a bare language model is whole.

    Args:
        self: LLaVA's inner model.
        model_args: LLaVA's arguments.
        args: whatever else LLaVA, or a fork of it, takes.
        keywords: the same.

    Raises:
        ValueError: for a registered vision tower other than the checkpoint's, which LLaVA would keep and rename.
    """
    _check_tower(self, model_args.vision_tower)
    projector: Any = getattr(self, "mm_projector", None)
    loads = projector is not None and model_args.pretrain_mm_mlp_adapter is not None
    with gathered(list(projector.parameters()) if loads else [], write=True):
        _initialize_vision_modules(self, model_args, *args, **keywords)


def _check_tower(inner: Any, name: str) -> None:
    own = inner.get_vision_tower() and inner.config.mm_vision_tower
    if own and own != name and any(VISION_TOWERS.find(one.partition(":")[0]) for one in (own, name)):
        raise ValueError(
            f"--vision_tower {name}, but the checkpoint has the vision tower {own}, for which its mm_projector was "
            "trained: leave the flag out, or start from the language model with the new tower"
        )


class CheckpointPath(str):
    """A path that answers by its config when LLaVA's ``train()``, in a patched tree, looks for ``mpt`` in it."""

    def __contains__(self, part: str) -> bool:  # type: ignore[override]
        if part == "mpt":
            values, _ = PretrainedConfig.get_config_dict(str(self))
            return region_class_of_values(values, str(self), plain=True) is LlavaMptForCausalLM
        return super().__contains__(part)


def _model_types(candidate: Any) -> tuple[str, str]:
    """Of LLaVA checkpoints, and of the language model alone."""
    return candidate.config_class.model_type, candidate.language_model_class.config_class.model_type


def _known_types() -> list[str]:
    return sorted(candidate.config_class.model_type for candidate in REGION_CLASSES)
