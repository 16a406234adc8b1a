"""The layers that CONTRIBUTING lists are those of the import contract, and no modules import each other in a circle."""

import configparser
import re
from pathlib import Path

import grimp

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


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: the contract has layers of folders, and sees no circle within one."""
    graph = grimp.build_graph("pvit_ext", exclude_type_checking_imports=True, cache_dir=None)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while free := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in free:
            del left[module]
    in_circles = [module for module in left if any(module in others for others in left.values())]
    assert not sorted(in_circles)
