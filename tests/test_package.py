"""What is installed: metadata, extras, entry points, lazy imports."""

import ast
import configparser
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pvit_ext

ROOT = Path(__file__).parents[1]
CORE = {"torch", "transformers", "peft", "einops", "safetensors", "pillow", "numpy"}
HEAVY = {"torch", "torchvision", "transformers", "llava", "flash_attn", "deepspeed", "wandb", "timm", "numpy", "PIL"}

NEWER = {"qlora", "demo"}
"""Extras that do not go with LLaVA's pins: one needs transformers 5, one what gradio 6 has."""


def declared() -> dict[str, list[Requirement]]:
    """Requirements of setup.cfg by extra, "" for the core; a reference to our own extras is left out."""
    config = configparser.ConfigParser(strict=True)
    config.read(ROOT / "setup.cfg")
    texts = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    lines = {extra: [line for line in text.splitlines() if line] for extra, text in texts.items()}
    return {
        extra: [Requirement(line) for line in given if not line.startswith("pvit-ext")]
        for extra, given in lines.items()
    }


def all_declared() -> list[Requirement]:
    return [requirement for group in declared().values() for requirement in group]


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running code."""
    code += "\nimport sys; print('MODULES', *{name.split('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(output.rpartition("MODULES")[2].split())


def test_metadata():
    metadata = importlib.metadata.metadata("pvit-ext")
    assert metadata["Name"] == "pvit-ext"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Apache-2.0" in (metadata["License-Expression"] or metadata["License"])
    assert {"train", "flash", "wandb", "quickstart", "test"} <= set(metadata.get_all("Provides-Extra"))
    assert pvit_ext.__version__ == metadata["Version"]


def test_dependencies_are_the_core_and_never_llava():
    assert {requirement.name for requirement in declared()[""]} == CORE
    assert not [requirement for requirement in all_declared() if "llava" in requirement.name]


def test_bounds_admit_what_llava_pins():
    pins = [Requirement(text) for text in importlib.metadata.requires("llava-torch") or []]
    versions = {pin.name: str(pin.specifier)[2:] for pin in pins if str(pin.specifier).startswith("==")}
    bounded = [r for extra, group in declared().items() if extra not in NEWER for r in group]
    upgraded = [str(r) for r in bounded if r.name in versions and not r.specifier.contains(versions[r.name])]
    assert {"torch", "transformers", "peft", "deepspeed"} <= versions.keys()
    assert not upgraded


def test_constraints_pin_every_requirement_within_its_bounds():
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    assert {r.name for r in all_declared()} - pins.keys() == {"flash-attn"}  # needs CUDA to build
    assert not [str(r) for r in all_declared() if r.name in pins and not r.specifier.contains(pins[r.name])]


def test_entry_points():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="pvit-ext")
    assert script.value == "pvit_ext.cli:main"
    assert callable(script.load())
    (encoder,) = importlib.metadata.entry_points(group="pvit_ext.region_encoders", name="regionclip")
    assert encoder.value == "pvit_ext.encoders.regionclip.encoder:build"
    assert callable(encoder.load())


def test_package_is_marked_as_typed():
    assert Path(pvit_ext.__file__).with_name("py.typed").is_file()


def test_importing_the_package_and_the_command_line_loads_nothing_heavy():
    assert not modules_after("import pvit_ext, pvit_ext.cli; pvit_ext.cli.build_parser().format_help()") & HEAVY
    assert "numpy" in modules_after("import pvit_ext; pvit_ext.Region")


def test_geometry_and_encoders_need_no_llava():
    code = "import pvit_ext.regions.view, pvit_ext.config, pvit_ext.encoders.regionclip.encoder"
    assert modules_after(code) & HEAVY == {"torch", "numpy", "PIL"}


@pytest.mark.parametrize("name", pvit_ext.__all__)
def test_public_name_resolves(name):
    assert getattr(pvit_ext, name) is getattr(pvit_ext, name)
    assert name in dir(pvit_ext)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(pvit_ext.__file__).read_text())
    seen = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: module for name, module in seen.items() if str(module).startswith("pvit_ext")} == pvit_ext._MODULES
    assert sorted({*pvit_ext._MODULES, "__version__"}) == sorted(pvit_ext.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pvit_ext.nonsense
