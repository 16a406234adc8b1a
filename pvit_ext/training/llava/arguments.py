"""LLaVA's three argument classes, each with what regions add."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import transformers
from llava import conversation as conversation_lib
from llava.train import train as llava_train

from pvit_ext.config import RegionConfig
from pvit_ext.files import absolute
from pvit_ext.hosts.checkpoint_contents import checkpoint_contents, processor_contents
from pvit_ext.hosts.llava import compat, cpu_launch
from pvit_ext.hosts.llava.image_layout import ASPECTS, MERGES
from pvit_ext.training.arguments import DataFlags, ModelFlags, TrainingFlags, refuse_resume_path
from pvit_ext.training.lora_arguments import check_lora
from pvit_ext.training.sampler import check_sampling
from pvit_ext.training.tracking import check_trackers

_DEFAULT_TEMPLATE = ("v0", "v0.5")
"""Versions for which LLaVA stays with its default template, whatever their name says."""

_OF_NEW_VISION: dict[str, Any] = {
    "mm_projector_type": "linear", "mm_vision_select_layer": -1, "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat", "mm_use_im_start_end": False, "mm_use_im_patch_token": True,
}  # fmt: skip
"""LLaVA's defaults for a bare language model."""
_FIXED = ("mm_projector_type", "mm_vision_select_layer", "mm_vision_select_feature")
"""What a run on a LLaVA cannot change."""

logger = logging.getLogger(__name__)


@dataclass
class RegionModelArguments(ModelFlags, llava_train.ModelArguments):
    """LLaVA's model arguments and the region encoder's."""

    model_name_or_path: str | None = None
    vision_tower: str | None = field(default=None, metadata={"help": "default the checkpoint's own"})
    mm_projector_type: str | None = field(default=None, metadata={"help": "default the checkpoint's own, else linear"})
    mm_vision_select_layer: int | None = field(default=None, metadata={"help": "default the checkpoint's own, else -1"})
    mm_vision_select_feature: str | None = field(
        default=None, metadata={"help": "default the checkpoint's own, else patch"}
    )
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "default the checkpoint's own, else flat"})
    mm_use_im_start_end: bool | None = field(
        default=None, metadata={"help": "default the checkpoint's own, else False"}
    )
    mm_use_im_patch_token: bool | None = field(
        default=None, metadata={"help": "default the checkpoint's own, else True"}
    )

    def __post_init__(self) -> None:
        """Take vision tower and merging of tiles from a LLaVA checkpoint; the flags are for making one.

        Raises:
            ValueError: for flags that LLaVA's forward does not implement together, flags that contradict the
                checkpoint, and words that it would replace: an unknown template, an unknown merging of tiles.
        """
        known = {*conversation_lib.conv_templates, *_DEFAULT_TEMPLATE}
        if self.version not in known:
            raise ValueError(
                f"--version {self.version!r} is no conversation template; known: {', '.join(sorted(known))}"
            )
        if self.mm_patch_merge_type is not None:
            _check_word("mm_patch_merge_type", self.mm_patch_merge_type, MERGES)
        self.drop_empty_paths()
        if self.model_name_or_path is not None:
            values, _ = transformers.PretrainedConfig.get_config_dict(self.model_name_or_path)
            if own := values.get("mm_vision_tower"):
                self._check_tower(own)
                self._follow(values)
            self.vision_tower = self.vision_tower or own
        for name, default in _OF_NEW_VISION.items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        if self.mm_use_im_start_end and self.tune_mm_mlp_adapter:
            raise ValueError(
                "LLaVA does not implement --mm_use_im_start_end True with --tune_mm_mlp_adapter True, its forward "
                "raises NotImplementedError: drop one (--stage align trains the region modules alone without either)"
            )

    def _follow(self, values: dict[str, Any]) -> None:
        """Take the settings of a checkpoint's vision where no flag does: LLaVA would store defaults of its own instead.

        Args:
            values: of its config.json.

        Raises:
            ValueError: for a flag with another value, which would be stored but not used.
        """
        for name, default in _OF_NEW_VISION.items():
            given, own = getattr(self, name), values.get(name, default)
            if given is None:
                setattr(self, name, own)
            elif given != own and name in _FIXED:
                raise ValueError(
                    f"--{name} {given}, but {self.model_name_or_path} is a LLaVA of {name} {own}, for which its "
                    f"mm_projector was trained: leave the flag out, or give --{name} {own}"
                )

    def _check_tower(self, own: str) -> None:
        """Refuse another tower than the checkpoint's, which would be stored but not used; a copy of it is the same.

        Args:
            own: ``mm_vision_tower`` of its config.json, which is the tower that LLaVA loads.
        """
        given = self.vision_tower
        if given and absolute(given) != absolute(own) and _tower_files(given) != _tower_files(own):
            raise ValueError(
                f"--vision_tower {given}, but the checkpoint has the vision tower {own}, for which its mm_projector "
                f"was trained, and {given} does not hold the same files: leave the flag out, or start from the "
                f"language model with the new tower (where {own} has moved, mm_vision_tower in "
                f"{self.model_name_or_path}'s config.json says where to)"
            )

    def region_config(self, present: RegionConfig | None) -> RegionConfig:
        """Like :meth:`ModelFlags.region_config`, with the conversation template that is really used."""
        return replace(super().region_config(present), conv_version=self.template())

    def template(self) -> str:
        """Name of the template in use, which is LLaVA's default where it was told ``v0``."""
        used, templates = conversation_lib.default_conversation, conversation_lib.conv_templates
        if templates.get(str(self.version)) is used:
            return str(self.version)
        name = next((name for name, template in templates.items() if template is used), used.version)
        logger.warning(
            "--version %s: LLaVA trains on the template %s, the checkpoint will name that", self.version, name
        )
        return name


def _tower_files(name: str) -> tuple[str, str | None]:
    """What lies under a tower's name, weights and image processor; the name itself where there are no files here."""
    return checkpoint_contents(name), processor_contents(name)


def _check_word(flag: str, given: str, known: tuple[str, ...]) -> None:
    """Refuse a word that LLaVA would take for another, while config.json keeps it."""
    if given not in known:
        raise ValueError(f"--{flag} {given!r}: LLaVA knows {', '.join(known)}")


@dataclass
class RegionDataArguments(DataFlags, llava_train.DataArguments):
    """LLaVA's data arguments, and what regions add."""

    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": "resolutions, with image_aspect_ratio anyres; default the checkpoint's"}
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a layout that LLaVA does not know, and for tiles of one that has none."""
        super().__post_init__()
        _check_word("image_aspect_ratio", self.image_aspect_ratio, ASPECTS)
        if self.image_grid_pinpoints and self.image_aspect_ratio != "anyres":
            raise ValueError(
                f"--image_grid_pinpoints {self.image_grid_pinpoints}: --image_aspect_ratio {self.image_aspect_ratio} "
                "makes no tiles; give --image_aspect_ratio anyres, or drop the flag"
            )


@dataclass
class RegionTrainingArguments(TrainingFlags, llava_train.TrainingArguments):
    """LLaVA's training arguments, and what regions add."""

    def __post_init__(self) -> None:
        self.check_stage()
        refuse_resume_path(self)
        check_sampling(self)
        if self.label_smoothing_factor:
            raise ValueError(
                f"--label_smoothing_factor {self.label_smoothing_factor}: LLaVA makes labels longer for image tokens, "
                "which the Trainer's smoothing does not see: leave the flag out"
            )
        compat.refuse_cpu_fsdp(self)
        cpu_launch.enable_cpu(self)
        compat.report_to_none(self)
        super().__post_init__()
        self.local_rank = compat.local_rank(self)
        check_trackers(self)
        check_lora(self)
        compat.fsdp_as_list(self)
        # The Trainer seeds too, but only after the model and its new modules are made.
        transformers.set_seed(self.seed)
