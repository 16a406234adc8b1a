"""LLaVA's model classes with regions, and which of them a checkpoint asks for.

The classes carry the names of those they replace: transformers writes the name into config.json (``architectures``).
"""

from __future__ import annotations

from typing import Any

from llava.model import llava_arch
from llava.model.language_model import llava_llama, llava_mistral, llava_mpt
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    MptForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from pvit_ext.distributed import gathered
from pvit_ext.hosts.llava.model import RegionMixin

_initialize_vision_modules = llava_arch.LlavaMetaModel.initialize_vision_modules


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
    _set_gradient_checkpointing = (
        PreTrainedModel._set_gradient_checkpointing
    )  # LLaVA's takes what transformers 4.35 gave

    @property
    def model(self) -> Any:
        """LLaVA's splice of anyres tiles reads ``model.image_newline``, which MPT keeps under ``transformer``."""
        return self.transformer

    def get_input_embeddings(self) -> Any:
        """By way of ``model``, transformers 5 would find LLaVA's method ``embed_tokens``."""
        return self.transformer.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """As above."""
        self.transformer.set_input_embeddings(value)


REGION_CLASSES: tuple[Any, ...] = (LlavaLlamaForCausalLM, LlavaMistralForCausalLM, LlavaMptForCausalLM)


def region_class(stock: type) -> Any:
    """The region class for a LLaVA model class.

    Raises:
        TypeError: for any other class.
    """
    for candidate in REGION_CLASSES:
        if issubclass(stock, candidate.__mro__[2]):
            return candidate
    raise TypeError(f"{stock.__name__} is no LLaVA class; known: {[known.__name__ for known in REGION_CLASSES]}")


def region_class_of_config(config: Any) -> Any:
    """The region class for a LLaVA config, by its ``model_type``.

    Raises:
        ValueError: for a config of another model.
    """
    known = {candidate.config_class.model_type: candidate for candidate in REGION_CLASSES}
    if config.model_type not in known:
        raise ValueError(f"model_type {config.model_type!r} is no LLaVA checkpoint; known: {sorted(known)}")
    return known[config.model_type]


class ByModelType:
    """What LLaVA's ``train()`` gets for both of its model classes: it goes by the path's text, this by the config."""

    @staticmethod
    def from_pretrained(path: str, config: Any = None, **kwargs: Any) -> Any:
        """Load a LLaVA checkpoint, or a plain language model to make one of, as the region class for its model type.

        Args:
            path: folder or hub name.
            config: read anew; LLaVA gives one for MPT, to name an attention kernel that transformers' MPT lacks.
            kwargs: for ``from_pretrained``.

        Raises:
            ValueError: for another kind of model.
        """
        found = model_type(path)
        known = {kind: candidate for candidate in REGION_CLASSES for kind in _model_types(candidate)}
        if found not in known:
            raise ValueError(f"{path} has model_type {found!r}; known: {sorted(known)}")
        return known[found].from_pretrained(path, **{"torch_dtype": None, **kwargs})


def initialize_vision_modules(self: Any, model_args: Any, *args: Any, **keywords: Any) -> None:
    """LLaVA's method, with ``mm_projector`` whole while ``--pretrain_mm_mlp_adapter`` is loaded into it.

    The projector of a LLaVA checkpoint is made under ``zero.Init``, where ZeRO-3 leaves tensors of size 0 ("size
    mismatch for 0.weight", deepspeed 0.19.8); one that LLaVA makes here for a bare language model is whole.

    Args:
        self: LLaVA's inner model.
        model_args: LLaVA's arguments.
        args: whatever else LLaVA, or a fork of it, takes.
        keywords: the same.
    """
    projector: Any = getattr(self, "mm_projector", None)
    loads = projector is not None and model_args.pretrain_mm_mlp_adapter is not None
    with gathered(list(projector.parameters()) if loads else [], write=True):
        _initialize_vision_modules(self, model_args, *args, **keywords)


class CheckpointPath(str):
    """A path in which LLaVA's ``train()`` looks for ``mpt``; the answer is in the checkpoint's config."""

    def __contains__(self, part: str) -> bool:  # type: ignore[override]
        if part == "mpt":
            return model_type(str(self)) in _model_types(LlavaMptForCausalLM)
        return super().__contains__(part)


def model_type(path: str) -> str | None:
    """``model_type`` in a checkpoint's config."""
    kind: str | None = PretrainedConfig.get_config_dict(path)[0].get("model_type")
    return kind


def _model_types(candidate: Any) -> tuple[str, str]:
    """Of LLaVA checkpoints, and of the language model alone."""
    return candidate.config_class.model_type, candidate.language_model_class.config_class.model_type
