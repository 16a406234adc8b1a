"""Values of options have the types that their dataclass names."""

from __future__ import annotations

import typing
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, Optional

import pytest

from pvit_ext import build_region_encoder
from pvit_ext.adapters.options import AdapterChoice
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.options import read_options
from pvit_ext.value_types import check_types
from tests import tower_inputs as tower


@dataclass(frozen=True)
class Given:
    """One option of each type that encoders have."""

    switch: bool = False
    count: int = 1
    part: float = 0.5
    word: str = ""
    layers: tuple[int, ...] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    start: bool | Literal["gaussian", "pissa"] = True
    names: list[str] | str | None = None
    more: dict[str, Any] | None = None
    size: Optional[int] = None  # noqa: UP045  as a plug-in may write it


GOOD: list[tuple[dict[str, Any], Any]] = [
    ({"switch": True}, True), ({"count": 3}, 3), ({"part": 2}, 2), ({"word": "a"}, "a"),
    ({"layers": [-2, -1]}, (-2, -1)), ({"layers": None}, None), ({"pair": [1, 0.5]}, (1, 0.5)), ({"size": 4}, 4),
    ({"layers": []}, ()),
    ({"start": "pissa"}, "pissa"), ({"start": False}, False), ({"names": "all"}, "all"), ({"names": ["a"]}, ("a",)),
    ({"more": {"a": 1}}, {"a": 1}), ({"more": None}, None),
]  # fmt: skip
BAD = [
    ({"switch": "no"}, "option 'switch' is true or false, got 'no'"),
    ({"switch": 1}, "option 'switch' is true or false, got 1"),
    ({"switch": None}, "true or false, got None"),
    ({"count": True}, "a whole number, got True"),
    ({"count": 1.5}, "a whole number, got 1.5"),
    ({"part": "0.5"}, "a number, got '0.5'"),
    ({"word": 5}, "a text, got 5"),
    ({"layers": -2}, r"a list \(a whole number each\) or null, got -2"),
    ({"layers": ["-2"]}, r"got \['-2'\]"),
    ({"pair": [1, 2, 3]}, r"a list of 2, got \[1, 2, 3\]"),
    ({"start": 1}, "true or false or 'gaussian' or 'pissa', got 1"),
    ({"names": [1]}, r"a list \(a text each\) or a text or null, got \[1\]"),
    ({"more": "{}"}, "an object or null, got '{}'"),
    ({"size": "4"}, "a whole number or null, got '4'"),
]


@pytest.mark.parametrize(("given", "expected"), GOOD)
def test_values_of_their_type_are_taken(given: dict[str, Any], expected: Any) -> None:
    (name,) = given
    assert getattr(read_options(Given, given, "own"), name) == expected


@pytest.mark.parametrize(("given", "message"), BAD)
def test_values_of_another_type_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^own .*{message}"):
        read_options(Given, given, "own")


def test_an_encoder_refuses_a_switch_that_is_a_word() -> None:
    with pytest.raises(ValueError, match="gpt4roi option 'tiles' is true or false, got 'no'"):
        build_region_encoder(RegionConfig("gpt4roi", encoder_options={"tiles": "no"}), tower.TOWER)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delimiters": "no"}, "region config 'delimiters' is true or false or null, got 'no'"),
        ({"cross_layers": "2"}, "'cross_layers' is a whole number or null, got '2'"),
        ({"cross_layers": True}, "'cross_layers' is a whole number or null, got True"),
        ({"lion_adapters": "4"}, "'lion_adapters' is a whole number or null, got '4'"),
        ({"encoder_options": "{}"}, "'encoder_options' is an object or null, got '{}'"),
    ],
)
def test_region_modules_refuse_an_option_of_another_type(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionConfig(**{"encoder": "osprey", **given}).resolved(1)


def test_an_adapter_refuses_a_switch_that_is_a_word() -> None:
    with pytest.raises(ValueError, match=r"^--lora_options: 'use_rslora' is true or false, got 'no'"):
        AdapterChoice(options={"use_rslora": "no"}).config()
    assert AdapterChoice(options={"use_rslora": True, "target_modules": ["q_proj"]}).config().use_rslora


def test_types_for_type_checkers_alone_are_not_looked_at() -> None:
    kind = make_dataclass("kind", [("size", "Unknown", 1)])
    with pytest.raises(NameError):
        typing.get_type_hints(kind)
    check_types(kind, {"size": "x"}, "own")
