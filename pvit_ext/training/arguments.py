"""The flags that pvit-ext adds to those of a host, and how a command line is made of flags and a YAML file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional, cast

import transformers

from pvit_ext.config import CONFIG_KEY, RegionConfig, regions_from_json
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.records import Records, load_records
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.files import read_text, read_yaml
from pvit_ext.hosts.llava import compat
from pvit_ext.plugins import take_plugins
from pvit_ext.region_flags import Option, as_training_flags, json_object, options
from pvit_ext.tokens.serialization import read_region_config
from pvit_ext.training.lora_arguments import LoraFlags
from pvit_ext.training.stages import check_stage

CONFIG = "--config"

_PREFIX = "region_"


def _region_flag(option: Option) -> tuple[str, Any, Any]:
    """An option as a field: None where it is not given; a JSON object is text on the command line."""
    kind: Any = str if option.kind is dict else option.kind
    metadata = {"help": option.help} | ({"choices": option.choices} if option.choices else {})
    return _PREFIX + option.name, Optional[kind], field(default=None, metadata=metadata)  # noqa: UP045


_RegionFlags: Any = make_dataclass("_RegionFlags", map(_region_flag, options()))


@dataclass
class ModelFlags(_RegionFlags):
    """Which region modules: ``--region_NAME`` for each option of ``RegionConfig``, or those that stage 1 wrote."""

    model_name_or_path: str | None = None
    region_modules: str | None = field(default=None, metadata={"help": "folder that stage 1 wrote; start from it"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "attention as transformers names it: eager, sdpa, flash_attention_2, ..."}
    )

    def drop_empty_paths(self) -> None:
        """Make an empty path None: so a command line takes a recipe's default away."""
        for name in ("region_weights", "region_modules"):
            setattr(self, name, getattr(self, name) or None)

    def check_model(self) -> None:
        """Raise ValueError without MODEL: LLaVA's own default is a model that it has no class for."""
        if self.model_name_or_path is None:
            raise ValueError("--model_name_or_path is missing: a checkpoint, or a language model to make a LLaVA of")

    def region_config(self, present: RegionConfig | None) -> RegionConfig:
        """The encoder to train: that of ``--region_modules``, else the checkpoint's, else by these flags.

        Args:
            present: config of the checkpoint that is trained, if it has regions.

        Raises:
            ValueError: when a flag contradicts what is there already, or is no JSON object.
        """
        config = present
        if self.region_modules is not None:
            config = read_region_config(self.region_modules).config.without_absent_lion()
        given = self._given()
        if config is None:
            return RegionConfig(**given)
        new = {name: given[name] for name in config.not_yet_there() & given.keys()}
        config = replace(config, **new)
        if other := {key: value for key, value in given.items() if not _is_same(key, value, getattr(config, key))}:
            source = self.region_modules or self.model_name_or_path
            raise ValueError(
                f"{source} has other region modules than the flags say: {other}; say what it has: "
                f"{as_training_flags(config, other)}, or swap"
            )
        return config

    def stored_config(self) -> RegionConfig | None:
        """Config of the regions in MODEL, read from its config.json; None where ``--region_modules`` names others.

        Raises:
            OSError: when there is no config.json.
        """
        return None if self.region_modules is not None else self.base_config()

    def base_config(self) -> RegionConfig | None:
        """Config of the regions in MODEL, read from its config.json.

        Raises:
            OSError: when there is no config.json.
        """
        stored = transformers.PretrainedConfig.get_config_dict(str(self.model_name_or_path))[0].get(CONFIG_KEY)
        return None if stored is None else regions_from_json(stored).config

    @property
    def names_regions(self) -> bool:
        """Whether any flag asks for region modules."""
        return bool(self._given()) or self.region_modules is not None

    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, _PREFIX + name) for name, *_ in options()}
        if given["encoder_options"] is not None:
            given["encoder_options"] = json_object(given["encoder_options"], "--region_encoder_options")
        return {name: value for name, value in given.items() if value is not None}


def _is_same(name: str, given: Any, present: Any) -> bool:
    """Whether a flag says what is there: a file of weights by any of its paths, though it be gone by now."""
    if name != "weights" or present is None:
        return bool(given == present)
    return os.path.realpath(os.path.expanduser(given)) == os.path.realpath(present)


@dataclass
class DataFlags:
    """How regions are augmented, and how many bad records a run survives."""

    region_jitter: float = field(
        default=0.02, metadata={"help": "move each side of a box by up to this part of its extent"}
    )
    max_bad_records: int = field(
        default=0, metadata={"help": "bad records to list in bad_records.jsonl and replace by the next good one"}
    )
    tag_drop: float = field(default=0.0, metadata={"help": "chance of each tag of an image to be missing"})
    tag_wrong: float = field(
        default=0.0, metadata={"help": "chance, for each tag of an image, that a wrong one of the records' joins"}
    )
    tag_shuffle: bool = field(default=False, metadata={"help": "put the tags of an image into another order"})
    region_cache: str | None = field(
        default=None, metadata={"help": "folder that `pvit-ext data cache` wrote: frozen towers are not run"}
    )

    read = cast("tuple[Records, BadRecords] | None", None)  # once it was read; without annotation it is no flag
    caches: ClassVar[tuple[FeatureCache, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.region_jitter < 0.5:
            raise ValueError(f"--region_jitter {self.region_jitter}: give a part of a box's extent, 0 to below 0.5")
        if self.max_bad_records < 0:
            raise ValueError(f"--max_bad_records {self.max_bad_records}: give how many records may be bad, 0 or more")
        self.tag_noise  # noqa: B018  raises

    @property
    def tag_noise(self) -> TagNoise:
        """What becomes of the tags of images.

        Raises:
            ValueError: for a chance that is none.
        """
        for name in ("tag_drop", "tag_wrong"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"--{name} {value}: give a chance, 0 to 1")
        return TagNoise(self.tag_drop, self.tag_wrong, self.tag_shuffle)


@dataclass
class TrainingFlags(LoraFlags):
    """The stage, what ends a run, and what trackers show.

    Stage ``align`` trains the region modules alone, ``finetune`` whatever the host's own flags train and the region
    projector, ``lion_TASK`` the adapters of a task, and ``lion_mixed`` all adapters and their gates.
    """

    stage: str = field(default="finetune", metadata={"help": "align, finetune, lion_image, lion_region, lion_mixed"})
    allow_no_gradient: bool = field(
        default=False, metadata={"help": "continue although a trained tensor got no gradient in a whole epoch"}
    )
    region_eval_data: str | None = field(
        default=None, metadata={"help": "held-out records: loss, accuracy, and the model's answers in trackers"}
    )
    region_eval_records: int | None = field(
        default=None, metadata={"help": "measure only the first N of them, default all"}
    )
    region_eval_samples: int = field(default=8, metadata={"help": "show the first N of them in a table"})
    region_eval_steps: int | None = field(
        default=None, metadata={"help": "measure and show every N steps, beside start, saves and end"}
    )

    def check_stage(self) -> None:
        """Raise ValueError for an unknown stage."""
        check_stage(self.stage)


def refuse_resume_path(arguments: Any) -> None:
    """Raise ValueError for transformers' flag that names a checkpoint: a run finds its own."""
    if arguments.resume_from_checkpoint is not None:
        found = "the newest complete checkpoint in --output_dir"
        raise ValueError(f"--resume_from_checkpoint {arguments.resume_from_checkpoint}: a run continues from {found}")


def refuse_replicas(arguments: Any) -> None:
    """Raise ValueError for several GPUs in one process: each copy of the model would get the regions of all samples."""
    if arguments.n_gpu > 1:
        raise ValueError(
            f"one process sees {arguments.n_gpu} GPUs: start one for each (deepspeed recipes/..., torchrun -m "
            "pvit_ext.train), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def check_data(data: Any, training: Any) -> None:
    """Read the records for the dataset; no image is opened, and no other file.

    Args:
        data: :class:`DataFlags` with ``data_path`` and ``image_folder``.
        training: :class:`TrainingFlags`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when none is named, and when a stage that trains nothing but region modules would see no region.
        RecordError: for bad records, with all of them.
    """
    if data.data_path is None:
        raise ValueError("--data_path is missing: the records to train on, a JSON array or JSON Lines")
    if not Path(data.data_path).is_file():
        raise FileNotFoundError(f"--data_path {data.data_path} is not there, or is no file")
    bad = BadRecords(data.max_bad_records)
    data.read = load_records(data.data_path, data.image_folder, bad), bad
    summary = data.read[0].summary
    if training.stage == "align" and not summary.regions:
        raise ValueError(
            f"--data_path {data.data_path} has no region ({summary}), and --stage align trains nothing but region "
            'modules: give its records "regions" and <region> in their questions, or train with --stage finetune'
        )


def with_config_file(arguments: list[str]) -> list[str]:
    """A command line with the flags of ``--config FILE`` (YAML) put first, so that its own flags win.

    ``--NAME=VALUE`` becomes two words, because several flags are read before the parser sees them.

    Raises:
        ValueError: for a file that is no mapping of flags, for a second one, and for none.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if CONFIG not in words:
        return words
    if words.count(CONFIG) > 1:
        raise ValueError(f"{CONFIG} is given twice: put the flags of both files into one")
    index = words.index(CONFIG)
    if index + 1 == len(words):
        raise ValueError(f"{CONFIG} takes a YAML file of flags")
    return [*_flags_of_yaml(words[index + 1]), *words[:index], *words[index + 2 :]]


def expand_command_line(arguments: list[str]) -> list[str]:
    """The words of ``--config FILE`` and of the command line, removed flags mapped; ``--plugin MODULE`` is imported."""
    known = {item.name for item in fields(transformers.TrainingArguments)}
    return compat.known_flags(take_plugins(with_config_file(arguments)), known)


def _flags_of_yaml(path: str) -> list[str]:
    """The words of a YAML file; scalars stay as written, because YAML reads ``no`` as False and ``1e-3`` as text."""
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"{CONFIG} {path} is not there, or is no file: give a YAML file of flags")
    try:
        values, written = read_yaml(path), yaml.load(read_text(path), yaml.BaseLoader)
    except ValueError as error:
        raise ValueError(f"{CONFIG} {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: expected a mapping of flags, found {type(values).__name__}")
    names = zip(written, values.values(), strict=True)
    given = [(name, _words(value, written[name])) for name, value in names if value is not None]
    return [word for name, words in given for word in (f"--{name}", *words)]


def _words(value: Any, written: Any) -> list[str]:
    """A mapping and a list of lists are one word of JSON, a list of scalars is a word for each."""
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return [_word(*pair) for pair in zip(value, written, strict=True)]
    return [json.dumps(value) if isinstance(value, (dict, list)) else _word(value, written)]


def _word(value: Any, written: str) -> str:
    """A scalar as it is written, but for ``on``, ``0x10``, ``.inf`` and the like, which only YAML reads."""
    if isinstance(value, bool):
        return str(value) if written.lower() in ("on", "off") else written
    try:
        float(written)
    except ValueError:
        # YAML 1.1 takes 1:30 for 90, which nobody means
        return str(value) if isinstance(value, (int, float)) and ":" not in written else written
    return written
