"""The argument classes of a run with a model of transformers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import transformers

from pvit_ext.hosts.llava import compat, cpu_launch
from pvit_ext.training.arguments import DataFlags, ModelFlags, TrainingFlags, refuse_resume_path
from pvit_ext.training.lora_arguments import check_lora
from pvit_ext.training.sampler import check_sampling
from pvit_ext.training.tracking import check_trackers

OF_LLAVA = (
    "version", "vision_tower", "mm_projector_type", "mm_vision_select_layer", "mm_vision_select_feature",
    "mm_use_im_start_end", "mm_use_im_patch_token", "mm_patch_merge_type", "image_aspect_ratio", "image_grid_pinpoints",
)  # fmt: skip
"""LLaVA's flags for what a checkpoint of transformers brings with it: template, tower, projector, image processor."""

logger = logging.getLogger(__name__)


def without_llavas(words: list[str]) -> list[str]:
    """The words of a recipe without :data:`OF_LLAVA`; the log says that those have no effect."""
    kept: list[str] = []
    dropped: list[str] = []
    skipping = False
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            skipping = name in OF_LLAVA
            dropped += [word] if skipping else []
        kept += [] if skipping else [word]
    if dropped:
        logger.warning("without effect, because the checkpoint and its processor decide: %s", ", ".join(dropped))
    return kept


@dataclass
class TransformersModelArguments(ModelFlags):
    """The checkpoint, its region modules, and what of it stays frozen."""

    freeze_backbone: bool = field(default=False, metadata={"help": "freeze the language model"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "freeze what joins tower and language model"})

    def __post_init__(self) -> None:
        self.drop_empty_paths()


@dataclass
class TransformersDataArguments(DataFlags):
    """The records."""

    data_path: str | None = field(default=None, metadata={"help": "records: a JSON array or JSON Lines"})
    image_folder: str | None = field(default=None, metadata={"help": "folder of their images"})


@dataclass
class TransformersTrainingArguments(TrainingFlags, transformers.TrainingArguments):
    """transformers' training arguments, LLaVA's for lengths and LoRA, and what regions add."""

    model_max_length: int = field(default=2048, metadata={"help": "positions that a sample may take"})
    mm_projector_lr: float | None = field(
        default=None, metadata={"help": "learning rate of what joins tower and language model"}
    )
    remove_unused_columns: bool = field(default=False)
    group_by_modality_length: bool = field(
        default=False, metadata={"help": "batches of like length, all with images or all without, as in LLaVA"}
    )
    lora_enable: bool = False
    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_bias: str = "none"
    bits: int = field(default=16, metadata={"help": "bits of the language model under an adapter: 16, 8 or 4"})
    quant_type: str = field(default="nf4", metadata={"help": "kind of 4 bits: nf4 or fp4"})
    double_quant: bool = field(default=True, metadata={"help": "quantise the scales of 4 bits too"})

    def __post_init__(self) -> None:
        self.check_stage()
        refuse_resume_path(self)
        check_sampling(self)
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns True would drop images and regions: leave it out")
        cpu_launch.enable_cpu(self)
        compat.report_to_none(self)
        super().__post_init__()
        check_trackers(self)
        check_lora(self)
        # The Trainer seeds too, but only after the new modules are made.
        transformers.set_seed(self.seed)
