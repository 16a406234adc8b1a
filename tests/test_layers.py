"""The layers that CONTRIBUTING lists are those of the import contract."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def layers_of_contract() -> list[set[str]]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    named = [{name.strip("()") for name in re.split(r"[|:]", line.replace(" ", ""))} for line in lines]
    return [names for names in named if names != {""}]


def layers_of_text() -> list[set[str]]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"from the first line to the last:\n\n((?: {4}.*\n)+)", text)
    return [set(re.sub(r"\(.*?\)", "", line).replace(" ", "").split(",")) for line in block.splitlines()]


def test_contributing_lists_the_layers_of_the_import_contract() -> None:
    assert layers_of_text() == layers_of_contract()
