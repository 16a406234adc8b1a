"""The package's metadata, and the tables and files that repeat it."""

from __future__ import annotations

import configparser
import re
from importlib import metadata as metadata_of

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pages import ROOT, text_of


@pytest.mark.parametrize("page", ["README.md", "docs/encoders.md"])
def test_every_encoder_has_a_row(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", text_of(page), re.MULTILINE)
    names = metadata()["options.entry_points"]["pvit_ext.region_encoders"].split("\n")
    assert sorted(rows) == sorted(line.partition(" =")[0] for line in names if line)


def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_citation_and_hooks() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert str(citation["version"]) == metadata()["metadata"]["version"]
    assert "2308.13437" in citation["preferred-citation"]["url"]
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert {hook["id"] for hook in repository["hooks"]} == {"ruff", "ruff-format", "mypy", "imports"}


def test_the_pins_are_all_that_the_tests_need() -> None:
    """What is carried to a machine without a network is that list without torch (docs/performance.md)."""
    lines = (re.match(r"[\w.-]+(?===)", line) for line in text_of(".ci/constraints.txt").splitlines())
    pinned = {canonicalize_name(line[0]) for line in lines if line}
    todo, seen = [("pvit-ext", "test")], {("torch", "")}  # torch brings its own
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or not (found := installed(name)):
            continue
        seen.add((name, extra))
        needed = [Requirement(line) for line in found.requires or []]
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(one.name), part) for part in ("", *one.extras)]
    missing = {name for name, _ in seen} - pinned - {"pvit-ext"}
    assert len(seen) > 50
    assert not missing


def installed(name: str) -> metadata_of.Distribution | None:
    try:
        return metadata_of.distribution(name)
    except metadata_of.PackageNotFoundError:
        return None
