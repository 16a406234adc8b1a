"""Which adapter a run trains: a method's fields, LLaVA's flags and ``--lora_options``, as one config of peft."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from pvit_ext.adapters import refusals
from pvit_ext.adapters.methods import METHODS
from pvit_ext.adapters.values import check_values, nested
from pvit_ext.region_flags import json_object
from pvit_ext.value_types import check_types

LORA = "LORA"
FLAGS = {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "bias": "lora_bias"}
"""Field of peft's LoraConfig -> LLaVA's flag for it."""
_OURS = ("task_type", "base_model_name_or_path", "inference_mode", "revision", "auto_mapping", "peft_version")
"""Fields of a config that are not the user's."""


@dataclass(frozen=True)
class AdapterChoice:
    """The adapter that the flags of a run ask for.

    Args:
        method: a name in :data:`~pvit_ext.adapters.methods.METHODS`.
        options: values for the config of peft's LoRA, or of the tuner that their ``peft_type`` names.
        flags: values of LLaVA's flags, by field of peft's LoRA; other tuners take none of them.
    """

    method: str = "lora"
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Any) -> AdapterChoice:
        """The choice of a run.

        Args:
            arguments: with LLaVA's ``lora_r`` and so on, ``lora_method`` and ``lora_options``.

        Raises:
            ValueError: for options that are no JSON object.
        """
        flags = {name: getattr(arguments, flag) for name, flag in FLAGS.items()}
        return cls(arguments.lora_method or "lora", parse_options(arguments.lora_options), flags)

    @property
    def tuner(self) -> str:
        """peft's name of the tuner."""
        return str({**METHODS.require(self.method).fields, **self.options}.get("peft_type", LORA)).upper()

    def config(self) -> Any:
        """The config, for the layers that peft's own default or the options name.

        Raises:
            ValueError: for an unknown method, tuner or field, with the known ones, a field that is set twice, and a
                value that nothing trains with.
        """
        kind, known = config_class(self.tuner), field_names(self.tuner)
        chosen = {name: value for name, value in METHODS.require(self.method).fields.items() if name != "peft_type"}
        given = {name: value for name, value in self.options.items() if name != "peft_type"}
        self._check(chosen, given, known)
        check_types(kind, given, "--lora_options:")
        flags = self.flags if self.tuner == LORA else {}
        said_by = {name: f"--{FLAGS[name]}" for name in flags}
        said_by |= {name: f"--lora_method {self.method}: {name}" for name in chosen}
        check_values(kind, self.tuner, {**flags, **chosen, **given}, said_by)
        values = {**flags, **chosen, **nested(kind, given)}
        try:
            config = kind(**values, task_type="CAUSAL_LM")
        except (TypeError, ValueError, ImportError) as error:
            raise ValueError(f"peft {version('peft')} refuses --lora_options {json.dumps(given)}: {error}") from error
        for name in given:
            if values[name] and not getattr(config, name):  # peft warns, and goes on without it
                reason = next((one.reason for one in refusals.FIELDS if one.name == name), "peft drops it")
                raise ValueError(f"{name} is refused: {reason}")
        return config

    def _check(self, chosen: dict[str, Any], given: dict[str, Any], known: set[str]) -> None:
        if missing := sorted(chosen.keys() - known):
            raise ValueError(
                f"--lora_method {self.method} sets {', '.join(missing)}, which the {self.tuner} of peft "
                f"{version('peft')} does not have: use a newer peft, or another method ({', '.join(METHODS.names())})"
            )
        if unknown := sorted(given.keys() - known):
            raise ValueError(
                f"--lora_options: the {self.tuner} of peft {version('peft')} has no field {', '.join(unknown)}; "
                f"it has {', '.join(sorted(known))}"
            )
        if twice := sorted(given.keys() & chosen.keys()):
            raise ValueError(
                f"--lora_options names {', '.join(twice)}, which --lora_method {self.method} sets: drop one"
            )
        if self.tuner == LORA and (flagged := sorted(given.keys() & FLAGS.keys())):
            raise ValueError(f"--lora_options names {flagged[0]}, which is the flag --{FLAGS[flagged[0]]}: use that")


def parse_options(text: str | None) -> dict[str, Any]:
    """The fields in ``--lora_options``; none for no text.

    Raises:
        ValueError: for text that is no JSON object.
    """
    if not text:
        return {}
    return json_object(text, "--lora_options", '{"use_dora": true}')


def config_class(tuner: str) -> Any:
    """peft's config of a tuner.

    Args:
        tuner: peft's name, such as ``LORA``.

    Raises:
        ValueError: for a tuner that this peft does not have, with those that it has.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(getattr(name, "value", name)): kind for name, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if tuner not in known:
        raise ValueError(f"peft {version('peft')} has no peft_type {tuner}; it has {', '.join(sorted(known))}")
    return known[tuner]


def field_names(tuner: str) -> set[str]:
    """The fields of a tuner's config that a user may set."""
    return {item.name for item in fields(config_class(tuner)) if item.init} - {*_OURS, "peft_type"}
