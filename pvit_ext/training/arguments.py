"""The command line of training: LLaVA's three argument classes, each with what regions add."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, Optional, cast

import transformers
from llava import conversation as conversation_lib
from llava.train import train as llava_train

from pvit_ext.config import Option, RegionConfig, options
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import Records
from pvit_ext.hosts.llava import compat, cpu_launch
from pvit_ext.hosts.llava.classes import CheckpointPath
from pvit_ext.hosts.llava.dataset import read_records
from pvit_ext.plugins import take_plugins
from pvit_ext.tokens.serialization import read_region_config
from pvit_ext.training.tracking import check_trackers

STAGES = ("align", "finetune")
_DEFAULT_TEMPLATE = ("v0", "v0.5")
"""Versions for which LLaVA's train() stays with its default template, whatever their name says."""

logger = logging.getLogger(__name__)


_PREFIX = "region_"
_ADDED_BY_A_STAGE = ("box_embedding", "cross_layers")


def _region_flag(option: Option) -> tuple[str, Any, Any]:
    """An option as a field: None where it is not given; a JSON object is text on the command line."""
    kind: Any = str if option.kind is dict else option.kind
    metadata = {"help": option.help} | ({"choices": option.choices} if option.choices else {})
    return _PREFIX + option.name, Optional[kind], field(default=None, metadata=metadata)  # noqa: UP045


_RegionFlags: Any = make_dataclass("_RegionFlags", map(_region_flag, options()))


@dataclass
class RegionModelArguments(_RegionFlags, llava_train.ModelArguments):
    """LLaVA's model arguments and the region encoder's, ``--region_NAME`` for each option of ``RegionConfig``."""

    model_name_or_path: str = llava_train.ModelArguments.model_name_or_path
    vision_tower: str | None = field(default=None, metadata={"help": "default the checkpoint's own"})
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "default the checkpoint's own, else flat"})
    region_modules: str | None = field(default=None, metadata={"help": "folder that stage 1 wrote; start from it"})

    def __post_init__(self) -> None:
        """A LLaVA checkpoint names its vision tower and how it merges tiles; the flags are for making one.

        An empty path is none, which takes a recipe's default away.

        Raises:
            ValueError: for flags that LLaVA's forward does not implement together, and for an unknown template, in
                whose place it would take ``vicuna_v1``.
        """
        known = {*conversation_lib.conv_templates, *_DEFAULT_TEMPLATE}
        if self.version not in known:
            raise ValueError(
                f"--version {self.version!r} is no conversation template; known: {', '.join(sorted(known))}"
            )
        for name in ("region_weights", "region_modules"):
            setattr(self, name, getattr(self, name) or None)
        if self.mm_use_im_start_end and self.tune_mm_mlp_adapter:
            raise ValueError(
                "LLaVA does not implement --mm_use_im_start_end True with --tune_mm_mlp_adapter True, its forward "
                "raises NotImplementedError: drop one (--stage align trains the region modules alone without either)"
            )
        if self.model_name_or_path != RegionModelArguments.model_name_or_path:
            values, _ = transformers.PretrainedConfig.get_config_dict(self.model_name_or_path)
            self.vision_tower = self.vision_tower or values.get("mm_vision_tower")
            self.mm_patch_merge_type = self.mm_patch_merge_type or values.get("mm_patch_merge_type")
        self.mm_patch_merge_type = self.mm_patch_merge_type or "flat"
        self.model_name_or_path = CheckpointPath(self.model_name_or_path)

    def region_config(self, present: RegionConfig | None) -> RegionConfig:
        """The encoder to train: that of ``--region_modules``, else the checkpoint's, else by these arguments.

        Args:
            present: config of the checkpoint that is trained, if it has regions.

        Raises:
            ValueError: when an argument contradicts what is there already, or is no JSON object.
        """
        config = read_region_config(self.region_modules)[0] if self.region_modules is not None else present
        given = self._given()
        if config is not None:
            new = {name: given[name] for name in _ADDED_BY_A_STAGE if name in given and not getattr(config, name)}
            config = replace(config, **new)
        if config is None:
            config = RegionConfig(**given)
        elif other := {key: value for key, value in given.items() if getattr(config, key) != value}:
            source = self.region_modules or self.model_name_or_path
            raise ValueError(f"{source} has other region modules than the flags say: {other}; drop those flags or swap")
        return replace(config, conv_version=self.template())

    @property
    def names_regions(self) -> bool:
        """Whether any flag asks for region modules."""
        return bool(self._given()) or self.region_modules is not None or self.region_box_embedding

    def template(self) -> str:
        """Name of the template that LLaVA's ``train()`` uses, which is its default where it was told ``v0``."""
        used, templates = conversation_lib.default_conversation, conversation_lib.conv_templates
        if templates.get(str(self.version)) is used:
            return str(self.version)
        name = next((name for name, template in templates.items() if template is used), used.version)
        logger.warning(
            "--version %s: LLaVA trains on the template %s, the checkpoint will name that", self.version, name
        )
        return name

    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, _PREFIX + name) for name, *_ in options()}
        if given["encoder_options"] is not None:
            given["encoder_options"] = _json_object(given["encoder_options"])
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class RegionDataArguments(llava_train.DataArguments):
    """LLaVA's data arguments, how regions are augmented, and how many bad records a run survives."""

    region_jitter: float = field(
        default=0.02, metadata={"help": "move each side of a box by up to this part of its extent"}
    )
    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": "resolutions, with image_aspect_ratio anyres; default the checkpoint's"}
    )
    max_bad_records: int = field(
        default=0, metadata={"help": "records to replace by the next good one and list in bad_records.jsonl, then fail"}
    )

    read = cast("tuple[Records, BadRecords] | None", None)  # once it was read; without annotation it is no flag

    def __post_init__(self) -> None:
        if not 0 <= self.region_jitter < 0.5:
            raise ValueError(f"--region_jitter {self.region_jitter}: a part of a box's extent, from 0 to below 0.5")
        if self.max_bad_records < 0:
            raise ValueError(f"--max_bad_records {self.max_bad_records}: how many records may be bad, 0 or more")


@dataclass
class RegionTrainingArguments(llava_train.TrainingArguments):
    """LLaVA's training arguments and the stage.

    Stage ``align`` trains the region modules alone, ``finetune`` whatever LLaVA's own flags train and
    the region projector.
    """

    stage: str = field(default="finetune", metadata={"help": "align or finetune"})
    allow_no_gradient: bool = field(
        default=False, metadata={"help": "go on although a trained tensor got no gradient in a whole epoch"}
    )
    region_eval_data: str | None = field(
        default=None, metadata={"help": "records that wandb or tensorboard show with the model's answers"}
    )
    region_eval_samples: int = field(default=8, metadata={"help": "show so many of them, from the first on"})
    region_eval_steps: int | None = field(
        default=None, metadata={"help": "show them every so many steps, beside start, saves and end"}
    )

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"--stage {self.stage!r}; known: {', '.join(STAGES)}")
        if self.resume_from_checkpoint is not None:
            where = "the newest complete checkpoint in --output_dir"
            raise ValueError(f"--resume_from_checkpoint {self.resume_from_checkpoint}: a run continues from {where}")
        cpu_launch.enable_cpu(self)
        compat.report_to_none(self)
        super().__post_init__()
        self.local_rank = compat.local_rank(self)
        check_trackers(self)
        compat.fsdp_as_list(self)
        # The Trainer seeds too, but only after LLaVA has made the model and its new modules.
        transformers.set_seed(self.seed)


class ArgumentParser(transformers.HfArgumentParser):
    """transformers' parser, in whose place LLaVA's ``train()`` gets this: arguments are checked against each other."""

    def parse_args_into_dataclasses(self, *args: Any, **keywords: Any) -> Any:
        """As transformers has it, then :func:`check_data`: nothing was loaded yet."""
        parsed = super().parse_args_into_dataclasses(*args, **keywords)
        by_kind = {type(one): one for one in parsed}
        if {RegionDataArguments, RegionTrainingArguments} <= by_kind.keys():
            check_data(by_kind[RegionDataArguments], by_kind[RegionTrainingArguments].stage)
        return parsed


def check_data(data: RegionDataArguments, stage: str) -> None:
    """Read the records, which the dataset takes over, before minutes go into loading the model.

    Raises:
        ValueError: when a stage that trains nothing but region modules would see no region.
        RecordError: for bad records, with all of them.
    """
    if data.data_path is None:
        raise ValueError("--data_path is missing: the records to train on, a JSON array or JSON Lines")
    data.read = read_records(data.data_path, data)
    if stage == "align" and not (summary := data.read[0].summary).regions:
        raise ValueError(
            f"--data_path {data.data_path} has no region ({summary}), and --stage align trains nothing but region "
            'modules: give its records "regions" and <region> in their questions, or train with --stage finetune'
        )


def expand_command_line(arguments: list[str]) -> list[str]:
    """Put the flags of ``--config FILE`` (YAML) first, so that those of the command line win; map removed flags.

    ``--plugin MODULE`` is imported and taken out.
    """
    if "--config" in arguments:
        place = arguments.index("--config")
        path = arguments[place + 1] if place + 1 < len(arguments) else ""
        arguments = [*_flags_of_yaml(path), *arguments[:place], *arguments[place + 2 :]]
    known = {item.name for item in fields(transformers.TrainingArguments)}
    return compat.known_flags(take_plugins(arguments), known)


def _flags_of_yaml(path: str) -> list[str]:
    """The words of a YAML file: scalars as they are written, for YAML takes ``no`` for False and ``1e-3`` for text."""
    import yaml

    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    values, written = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: expected a mapping of flags, found {type(values).__name__}")
    names = zip(written, values.values(), strict=True)
    given = [(name, _words(value, written[name])) for name, value in names if value is not None]
    return [word for name, words in given for word in (f"--{name}", *words)]


def _words(value: Any, written: Any) -> list[str]:
    """A mapping and a list of lists are one word of JSON, a list of scalars is a word for each."""
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return list(written)
    return [json.dumps(value) if isinstance(value, (dict, list)) else written]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--region_encoder_options {text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"--region_encoder_options {text!r} is no JSON object")
    return value
