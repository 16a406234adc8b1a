"""The page's Dockerfile and unit name what exists, and run command lines that ``pvit-ext serve`` takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pvit_ext.cli.parser import build_parser
from tests.pages import ROOT, blocks

FOLDER = ROOT / "docs" / "serving"
UNIT = FOLDER / "pvit-ext.service"


def parsed(words: list[str]) -> Namespace:
    """A command line, whose first word is the program."""
    assert Path(words[0]).name == "pvit-ext"
    return build_parser().parse_args(words[1:])


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their texts, in order."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, rest in lines]


def texts(name: str) -> list[str]:
    return [text for found, text in steps() if found == name]


def commands_of_page(word: str) -> list[list[str]]:
    """The commands of the page's shell examples that begin with a word."""
    lines = "\n".join(blocks("docs/serving.md", "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(word + " ")]


def test_the_dockerfile_has_what_the_package_needs() -> None:
    assert steps()[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", steps()[0][1])  # a version, which no later image replaces
    copied = [source for text in texts("COPY") for source in text.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = [*re.findall(r"^file: (\S+)", setup["metadata"]["long_description"]), setup["metadata"]["license_files"]]
    assert {*needed, "setup.cfg", "pyproject.toml", "pvit_ext", "recipes"} <= {*copied}  # pvit_ext/recipes is a link
    (install,) = (text for text in texts("RUN") if "pip install" in text)
    assert set(re.findall(r"-c (\S+)", install)) == {".ci/constraints.txt"} <= {*copied}
    assert re.findall(r'"\.\[(\w+)\]"', install) == ["serve"]
    assert "serve" in setup["options.extras_require"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(pin in makefile for pin in re.findall(r"\S+==\S+", install))


def test_the_image_runs_the_server_for_a_user_without_rights() -> None:
    (user,) = texts("USER")
    assert any(f"useradd --create-home {user}" in text for text in texts("RUN"))
    assert [name for name, _ in steps()].index("USER") < [name for name, _ in steps()].index("ENTRYPOINT")
    entry = json.loads(texts("ENTRYPOINT")[0])
    (command,) = (one for one in commands_of_page("docker") if one[1] == "run")
    args = parsed(entry + command[command.index("pvit-server") + 1 :])
    assert (args.host, args.model) == ("0.0.0.0", "$PWD/runs/quickstart/stage2")
    assert "$PWD/runs:$PWD/runs:ro" in command
    assert texts("EXPOSE") == [str(args.port)]
    assert f"{args.port}:{args.port}" in command
    (build,) = (one for one in commands_of_page("docker") if one[1] == "build")
    assert (ROOT / build[build.index("-f") + 1]).samefile(FOLDER / "Dockerfile")
    assert build[build.index("-t") + 1] == "pvit-server"


def test_commands_of_the_page() -> None:
    quickstart, photographs = commands_of_page("pvit-ext")
    assert parsed(quickstart).model == "runs/quickstart/stage2"
    assert photographs[1:3] == ["--plugin", "examples.photographs.plugin"]
    assert parsed([photographs[0], *photographs[3:]]).model == "runs/photographs/seed-0/crops/stage2"


def test_the_unit() -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    args = parsed(shlex.split(service["ExecStart"]))
    assert (args.host, args.port) == ("127.0.0.1", 8000)
    assert int(service["TimeoutStopSec"]) > args.timeout
    assert service["DynamicUser"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text()))  # a program that exists
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
