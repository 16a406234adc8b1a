"""The package's metadata, and the tables and files that repeat it."""

from __future__ import annotations

import configparser
import re

import pytest
import yaml

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
