"""What README and docs name exists: commands, flags, targets, paths, links and modules; every Python block compiles."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import pvit_ext
from examples.lion import __main__ as lion
from examples.photographs import __main__ as photographs
from examples.quickstart import __main__ as quickstart
from pvit_ext import cli, plugins
from pvit_ext.cli.data import name_subcommand
from pvit_ext.hosts.llava import compat
from tests.pages import FENCE, ROOT, blocks, text_of

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *(ROOT / "docs").glob("**/*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "patches/README.md", "recipes/RESUME.md")),
        ROOT / "examples/compare/README.md",
    ]
)
SHELLS = ("sh", "bash")
OTHER_PROGRAMS = {"--unidiff-zero", "--reverse", "--no-deps"}
"""Flags of git and pip that stand in a text on their own."""


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def spans(page: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, variables in front of it included."""
    uncommented = re.sub(r"(?:^|(?<=\s))#.*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(uncommented, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in lexer:
        if set(word) <= set(";&|()\n"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def commands(page: str) -> list[list[str]]:
    found = [words for block in blocks(page, *SHELLS) for words in shell_commands(block)]
    return [words for words in found if words]


def after(words: list[str], program: str) -> list[str] | None:
    """The words behind a program's name, if a command runs it."""
    names = [re.sub(r"^\.venv/bin/", "", word) for word in words]
    return words[names.index(program) + 1 :] if program in names else None


@cache
def training_flags() -> set[str]:
    compat.prepare_training()
    module = importlib.import_module("pvit_ext.training.llava.arguments")
    kinds = (module.RegionModelArguments, module.RegionDataArguments, module.RegionTrainingArguments)
    given = {word for path in (ROOT / "recipes").glob("*.sh") for word in re.findall(r"--\w+", path.read_text())}
    return given | {f"--{item.name}" for kind in kinds for item in fields(kind)} | {"--config", "--host", plugins.FLAG}


@cache
def launcher_flags() -> set[str]:
    package = importlib.util.find_spec("deepspeed")
    assert package is not None
    assert package.origin is not None
    source = Path(package.origin).with_name("launcher") / "runner.py"
    return set(re.findall(r'"(--\w+)"', source.read_text(encoding="utf-8")))


@cache
def make_names() -> tuple[set[str], set[str]]:
    """Targets and variables of the Makefile."""
    text = text_of("Makefile")
    return set(re.findall(r"^([\w-]+):(?!=)", text, re.MULTILINE)), set(re.findall(r"^(\w+) *\??=", text, re.MULTILINE))


def subparser(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the subcommand that these words name, and the words behind its name."""
    for number, word in enumerate(words):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                return subparser(action.choices[word], words[number + 1 :])
    return parser, words


def flags_in(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--\w", word)}


def all_pvit_flags(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(all_pvit_flags(choice) for choice in action.choices.values()))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_pvit_ext_commands_parse(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if (given := after(words, "pvit-ext")) is not None:
            assert parses(given), f"{page}: {shlex.join(words)}: {capsys.readouterr().err}"


def parses(words: list[str]) -> bool:
    try:
        found, more = cli.build_parser().parse_known_args(name_subcommand(words))
    except SystemExit as end:
        return not end.code
    return not more or (hasattr(found, "takes_more") and flags_in(more) <= training_flags())


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_a_text_exist(page: str) -> None:
    for span in spans(page):
        words = span.split()
        if words[:1] == ["pvit-ext"] and len(words) > 1 and words[1] not in ("COMMAND", "--traceback"):
            parser, rest = subparser(cli.build_parser(), name_subcommand(words[1:]))
            assert parser.prog != "pvit-ext" or words[1].startswith("--"), f"{page}: `{span}` is no command"
            assert not flags_in(rest) - set(parser._option_string_actions), f"{page}: `{span}`"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets, variables = make_names()
    found = [given for words in commands(page) if (given := after(words, "make")) is not None]
    found += [span.split()[1:] for span in spans(page) if span.startswith("make ")]
    for words in found:
        for word in words:
            name, equals, _ = word.partition("=")
            known = variables if equals else targets
            if re.fullmatch(r"[\w-]+", name):
                assert name in known, f"{page}: make {word}"


@pytest.mark.parametrize("page", PAGES)
def test_recipes_exist_and_know_the_flags(page: str) -> None:
    for words in commands(page):
        recipe = next((number for number, word in enumerate(words) if re.search(r"recipes/\w+\.sh$", word)), None)
        if recipe is not None:
            assert (ROOT / words[recipe]).is_file(), f"{page}: {words[recipe]}"
            assert flags_in(words[:recipe]) <= launcher_flags(), f"{page}: {shlex.join(words)}"
            own = set()
            if (given := after(words, "pvit-ext")) is not None:
                own = set(subparser(cli.build_parser(), given)[0]._option_string_actions)
            unknown = flags_in(words[recipe + 1 :]) - training_flags() - own
            assert not unknown, f"{page}: no such flags {sorted(unknown)}: {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_a_text_exist(page: str) -> None:
    known = training_flags() | all_pvit_flags(cli.build_parser()) | launcher_flags() | OTHER_PROGRAMS
    for example in (lion, photographs, quickstart):
        known |= set(example.build_parser()._option_string_actions)
    alone = {word for span in spans(page) if span.startswith("--") for word in flags_in(span.split())}
    assert not alone - known, f"{page} names flags that nothing has: {sorted(alone - known)}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    """Those that begin with a folder of the repository."""
    folders = "|".join(("docs", "examples", "patches", "pvit_ext", "recipes", "tests", r"\.ci"))
    code = [*spans(page), *blocks(page, *SHELLS, "", "text", "python")]
    found = {path for part in code for path in re.findall(rf"(?<![\w./-])(?:{folders})/[\w./*-]*\w", part)}
    missing = [path for path in sorted(found) if not any(ROOT.glob(path))]
    assert not missing, f"{page} names {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}; there are {sorted(anchors(target))}"


def elsewhere() -> set[str]:
    """The files outside of docs/ that the site has; read, not imported: the tests do without mkdocs."""
    for node in ast.parse(text_of("docs/hooks.py")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ELSEWHERE":
            return {*ast.literal_eval(node.value).values()}
    raise AssertionError("docs/hooks.py has no ELSEWHERE")


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_the_site_has_the_files_that_its_pages_link_to(page: str) -> None:
    known = elsewhere()
    for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", prose(page)):
        target = ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix()
        assert target.startswith("docs/") or target in known, f"{page}: {link} is none of docs/hooks.py's files"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles_and_names_what_exists(page: str) -> None:
    for block in blocks(page, "python"):
        if "--8<--" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pvit_ext"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {ast.unparse(node)}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pvit_ext":
                assert node.attr in pvit_ext.__all__, f"{page}: {ast.unparse(node)}"


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_in_a_text_resolve(page: str) -> None:
    for span in spans(page):
        if match := re.match(r"pvit_ext(?:\.\w+)+", span):
            assert resolves(match[0]) or f"``{match[0]}``" in str(plugins.__doc__), f"{page}: `{span}`"


@pytest.mark.parametrize("page", PAGES)
def test_json_parses(page: str) -> None:
    for block in blocks(page, "json"):
        json.loads(block)


def test_names_of_the_api_page_resolve() -> None:
    names = [
        name for page in ("docs/api.md", "docs/encoders.md") for name in re.findall(r"^::: (.+)$", text_of(page), re.M)
    ]
    assert len(names) > 20
    assert not [name for name in names if not resolves(name)]


def resolves(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_readme_is_short_and_names_the_two_commands() -> None:
    assert len(text_of("README.md").splitlines()) <= 150
    assert ["make", "test"] in commands("README.md")
    assert ["make", "quickstart"] in commands("README.md")


def test_site_is_built_strictly() -> None:
    """With --quiet mkdocs does not count its warnings, and --strict lets them pass."""
    (line,) = [line for line in text_of("Makefile").splitlines() if "mkdocs build" in line]
    assert line.split()[-1] == "--strict"


def test_site_holds_every_page() -> None:
    config = yaml.safe_load(text_of("mkdocs.yml"))
    named = [next(iter(entry.values())) for section in config["nav"] for entry in next(iter(section.values()))]
    own = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("**/*.md")]
    assert set(own) <= set(named)
    assert len(named) == len(set(named))
