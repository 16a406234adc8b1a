"""What a region-enabled checkpoint is made of: one nested key, ``pvit_ext``, of the host's own config."""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from pvit_ext.value_types import check_types

CONFIG_KEY = "pvit_ext"
FORMAT = 1
"""Format of the nested key and the region tensors; files that name no format have this one."""

RECORD_KEY = "lion_task"
"""Key of a data file's records that says the task of one."""
LION_TASKS = "region,image"
LION_ROUTING = ("task", "question")
APPENDED = "appended"
AGGREGATORS = ("added", APPENDED)
AGGREGATOR_DEPTHS = "0.95,0.74,0.49"
PROJECTORS = ("linear", "mlp2x_gelu")
TAGS = ("hint", "plain")

_OPTIONS_OF = {
    "lion_tasks": ("lion_adapters", "adapters"),
    "lion_routing": ("lion_adapters", "adapters"),
    "lion_aggregator_depths": ("lion_aggregator", "an aggregator"),
}
"""Options of a part, which stay None without it: the option that asks for the part, and what users call it."""
_OF_TOKENS = ("box_embedding", "cross_layers")
"""Parts of region tokens that a later stage may add."""
_KEPT_WITH_TOKENS = (*_OF_TOKENS, "projector", "delimiters")
"""What stays where the new encoder has region tokens, and the old one had."""
_KEPT_WITH_ENCODER = ("encoder_options", "weights", "embed_weights")
"""What stays where the new encoder is the old one, by its name."""
_PARTS_OF_LION = ("lion_adapters", "lion_tags", "lion_aggregator")
"""Options that each ask for a part of LION's."""


def _unsaid(usual: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field that is None until somebody says a value, and has this one where nobody did."""
    return field(default=None, metadata={"help": text, "usual": usual, "choices": choices})


@dataclass(frozen=True)
class RegionConfig:
    """How regions become tokens: what the user chose.

    None is what nobody said: :meth:`continuing` takes it from the model that is there, :meth:`resolved` decides the
    rest. What is said is done or refused, also where it is the default.

    Args:
        encoder: registered name of the region encoder.
        weights: file with the encoder's own weights; none by default, then they are random, or the encoder has none.
            An empty text says none too, also where the model that is there has a file.
        embed_weights: keep the encoder's weights inside the checkpoint instead of naming the file, default False;
            always so for an encoder that trains, and for one without a file.
        projector: region features to language-model width: ``linear`` (PVIT), the default, or ``mlp2x_gelu``.
        box_embedding: add a linear embedding of the normalised box to every region token (PVIT's stage 2), default
            False.
        cross_layers: gated attention blocks behind the encoder, through which regions see the whole image; 0, the
            default, for none.
        delimiters: surround each region with two learned embeddings (PVIT's <Region> and </Region>), default True
            for an encoder that gives features, and False for one that writes text.
        conv_version: LLaVA conversation template the checkpoint was trained with.
        encoder_options: keyword arguments of the encoder, such as ``{"arch": "rn50x4"}``, default none. They are one
            option: those that are said replace all that were there.
        lion_adapters: hidden width of LION's adapters beside each feed-forward layer of the language model; 0, the
            default, for none.
        lion_tasks: names of the tasks that have an adapter each, with commas between, default ``region,image``.
        lion_tags: read tags of images before the question: ``hint`` with LION's learned hint, ``plain`` without; None
            to read none.
        lion_routing: what chooses a sample's adapters where nobody says its task: regions (``task``, the default) or
            its ``question``.
        lion_aggregator: LION's vision aggregator, None for none: its rows are ``added`` to those of an image, or
            ``appended`` behind them.
        lion_aggregator_depths: the vision tower's layers that it reads, late to early, as fractions of its depth; the
            default is -2, -7 and -13 of CLIP ViT-L.
    """

    encoder: str = field(default="regionclip", metadata={"help": "name of the region encoder"})
    weights: str | None = field(default=None, metadata={"help": "file with the encoder's own weights"})
    embed_weights: bool | None = _unsaid(False, "copy the weights into checkpoints")
    projector: str | None = _unsaid("linear", "features to language-model width, default linear", PROJECTORS)
    box_embedding: bool | None = _unsaid(False, "add an embedding of the normalised box")
    cross_layers: int | None = _unsaid(0, "gated attention blocks to the image")
    delimiters: bool | None = field(
        default=None,
        metadata={"help": "learn two embeddings around each region, default for encoders with features"},
    )
    conv_version: str | None = None
    encoder_options: dict[str, Any] | None = _unsaid({}, "JSON object for the encoder")  # noqa: RUF009  a field
    lion_adapters: int | None = _unsaid(0, "hidden width of LION's adapters by task, 64 in the paper")
    lion_tasks: str | None = _unsaid(LION_TASKS, f"names of the adapters' tasks, default {LION_TASKS}")
    lion_tags: str | None = _unsaid(None, "read tags of images, with LION's learned hint or without", TAGS)
    lion_routing: str | None = _unsaid(
        "task", "what chooses adapters where nobody says the task, default task", LION_ROUTING
    )
    lion_aggregator: str | None = _unsaid(
        None, "LION's vision aggregator: added to image rows, or appended", AGGREGATORS
    )
    lion_aggregator_depths: str | None = _unsaid(
        AGGREGATOR_DEPTHS, f"layers that it reads as fractions of the tower's depth, default {AGGREGATOR_DEPTHS}"
    )

    def resolved(self, tokens_per_region: int) -> RegionConfig:
        """The same config with every default decided for an encoder.

        Args:
            tokens_per_region: T of the encoder.

        Raises:
            ValueError: for a value of another type, a number of cross layers that there cannot be, options of region
                tokens, of which an encoder with T = 0 has none, and options of LION that cannot apply.
        """
        check_types(RegionConfig, vars(self), "region config")
        self.check_lion()
        if self.cross_layers is not None and self.cross_layers < 0:
            raise ValueError(f"cross_layers is {self.cross_layers!r}: how many blocks, 0 or more")
        config = self.decided()
        if tokens_per_region:
            return config if self.delimiters is not None else replace(config, delimiters=True)
        off = {"delimiters": False, "box_embedding": False, "cross_layers": 0, "projector": "linear"}
        asked = {name: getattr(self, name) for name in off}
        if useless := {name: value for name, value in asked.items() if value not in (None, off[name])}:
            given = ", ".join(f"{name}={value!r}" for name, value in useless.items())
            raise ValueError(
                f"region encoder {self.encoder!r} gives no features (T = 0), so {given} cannot apply: leave it out, or "
                "choose an encoder that gives features"
            )
        return replace(config, delimiters=False)

    def decided(self) -> RegionConfig:
        """The same config with usual values for what nobody said; the rest needs an encoder: see :meth:`resolved`."""
        usual: dict[str, Any] = {
            item.name: copy(item.metadata.get("usual")) for item in fields(self) if getattr(self, item.name) is None
        }
        usual["weights"] = self.weights or None
        config = replace(self, **{name: value for name, value in usual.items() if name not in _OPTIONS_OF})
        there = [name for name, (part, _) in _OPTIONS_OF.items() if getattr(config, part)]
        return replace(config, **{name: usual[name] for name in there if name in usual})

    def check_lion(self) -> None:
        """Raise ValueError for options of LION that cannot be, or cannot apply."""
        if self.lion_adapters is not None and self.lion_adapters < 0:
            raise ValueError(f"lion_adapters is {self.lion_adapters!r}: the hidden width of an adapter, 0 for none")
        if self.lion_routing not in (None, *LION_ROUTING):
            raise ValueError(f"lion_routing is {self.lion_routing!r}; known: {', '.join(LION_ROUTING)}")
        if self.lion_tags not in (None, *TAGS):
            raise ValueError(f"lion_tags is {self.lion_tags!r}: {' or '.join(TAGS)}, or None for a model without tags")
        if self.lion_aggregator not in (None, *AGGREGATORS):
            raise ValueError(f"lion_aggregator is {self.lion_aggregator!r}: {' or '.join(AGGREGATORS)}, or None")
        for name, (part, called) in _OPTIONS_OF.items():
            if (found := getattr(self, name)) is not None and not getattr(self, part):
                raise ValueError(f"{name} {found!r} cannot apply without {called}: give {part} too")

    def without_absent_lion(self) -> RegionConfig:
        """The same config with LION's parts that it lacks unsaid: a model that a file is put on keeps its own."""
        absent: dict[str, Any] = {name: None for name in _PARTS_OF_LION if not getattr(self, name)}
        return replace(self, **absent)

    def unlike(self, other: RegionConfig) -> str:
        """What makes the parts of another config others than this one's, for messages; empty where nothing does.

        The template of a conversation is no part: tensors of one fit under another.
        """
        own, others = vars(self), vars(other)
        differ = [name for name in own if own[name] != others[name] and name != "conv_version"]
        return ", ".join(f"{name} {others[name]!r}, not {own[name]!r}" for name in differ)

    def not_yet_there(self) -> set[str]:
        """The options that a later stage may set: parts that this config has not, and that change nothing at first."""
        names = {name for name in (*_OF_TOKENS, *_PARTS_OF_LION) if not getattr(self, name)}
        names |= {name for name, (part, _) in _OPTIONS_OF.items() if part in names}
        return names | ({"lion_routing"} if self.lion_routing == "task" else set())

    def continuing(self, before: RegionConfig, tokens_per_region: int = 0) -> RegionConfig:
        """The same config, with what a model keeps of the config that it replaces where this one says nothing.

        Args:
            before: of the model until now.
            tokens_per_region: the lesser T of the new encoder and the old one: parts of region tokens end with an
                encoder that has none, and begin anew after one.

        Raises:
            ValueError: for a value of another type, and for an end of adapters that are there.
        """
        check_types(RegionConfig, vars(self), "region config")
        if self.lion_adapters == 0 and before.lion_adapters:
            raise ValueError(
                f"lion_adapters is 0, and the model has adapters of width {before.lion_adapters}, which stay: leave it "
                "out, or start from the checkpoint that they were added to"
            )
        kept = ["conv_version", *_usual_lion(), *(_KEPT_WITH_TOKENS if tokens_per_region else ())]
        kept += _KEPT_WITH_ENCODER if self.encoder == before.encoder else ()
        config = replace(self, **{name: getattr(before, name) for name in kept if getattr(self, name) is None})
        names, others = (sorted(task_names(one.lion_tasks)) for one in (config, before))
        if before.lion_adapters and names == others:  # adapters go by number
            return replace(config, lion_tasks=before.lion_tasks)
        return config


def task_names(text: str | None) -> tuple[str, ...]:
    """The names in ``lion_tasks``, in the order of the adapters; unchecked."""
    return tuple(name.strip() for name in (LION_TASKS if text is None else text).split(","))


def _usual_lion() -> dict[str, Any]:
    """LION's options with their usual values."""
    return {item.name: item.metadata["usual"] for item in fields(RegionConfig) if item.name.startswith("lion_")}


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder reported when it was built, and the checksum of its weights file.

    Args:
        feature_dim: C.
        tokens_per_region: T.
        weights_sha256: of the weights file; another file of the same name is an error. None before one was read.
    """

    feature_dim: int
    tokens_per_region: int
    weights_sha256: str | None = None


class StoredRegions(NamedTuple):
    """The nested key of a checkpoint's config: what was chosen, and what the encoder reported if it was built."""

    config: RegionConfig
    facts: EncoderFacts | None


def regions_to_json(config: RegionConfig, facts: EncoderFacts) -> dict[str, Any]:
    """Plain JSON types, for config.json; LION's options only where they are used, for versions that know none."""
    usual = _usual_lion()
    values = asdict(config.decided()).items()
    chosen = {key: value for key, value in values if key not in usual or value not in (None, usual[key])}
    return {"format": FORMAT, **chosen, **asdict(facts)}


def regions_from_json(values: dict[str, Any]) -> StoredRegions:
    """Inverse of :func:`regions_to_json`; reads what earlier versions wrote too.

    Raises:
        ValueError: on a format or a key that this version does not know.
    """
    found = values.get("format", FORMAT)
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise ValueError(
            f"region modules of format {found!r}; this version of pvit-ext reads formats up to {FORMAT}: upgrade it "
            "(pip install --upgrade pvit-ext), or write them again with this one"
        )
    chosen, reported = ({item.name for item in fields(kind)} for kind in (RegionConfig, EncoderFacts))
    if unknown := sorted(set(values) - chosen - reported - {"format"}):
        raise ValueError(f"unknown RegionConfig keys {unknown}; this version knows {sorted(chosen | reported)}")
    said = {key: value for key, value in values.items() if key in chosen}
    usual = _usual_lion()  # which an earlier version wrote without the part as well
    said |= {key: None for key, (part, _) in _OPTIONS_OF.items() if not said.get(part) and said.get(key) == usual[key]}
    config = RegionConfig(**said).decided()
    report = {key: value for key, value in values.items() if key in reported}
    built = report.get("feature_dim") is not None and report.get("tokens_per_region") is not None
    return StoredRegions(config, EncoderFacts(**report) if built else None)
