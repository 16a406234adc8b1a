"""The parser as a whole: what is given twice or cut short, how options are spelled, and that all are explained."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from pvit_ext import cli
from pvit_ext.cli.once import REPEATED


def commands(parser: Any = None, path: str = "pvit-ext") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The whole command line, and each command of it, with its words."""
    parser = parser or cli.build_parser()
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, f"{path} {name}")


def options_and_positionals() -> Iterator[tuple[str, argparse.Action]]:
    for path, parser in commands():
        for action in parser._actions:
            if not isinstance(action, (argparse._SubParsersAction, argparse._HelpAction)):
                yield f"{path} {action.option_strings or action.dest}", action


def test_every_command_says_what_it_does():
    assert not [path for path, parser in commands() if not parser.description]


def test_every_option_and_positional_has_help():
    assert not [name for name, action in options_and_positionals() if not action.help]


def test_every_option_is_spelled_with_dashes_first():
    hidden = {name for name, action in options_and_positionals() if action.help == argparse.SUPPRESS}
    shown = [(name, action) for name, action in options_and_positionals() if name not in hidden]
    assert not [name for name, action in shown if action.option_strings and "_" in action.option_strings[0]]


def test_every_parser_is_of_the_class_that_takes_a_value_once():
    assert len({type(parser) for _, parser in commands()}) == 1
    assert not [path for path, parser in commands() if parser.allow_abbrev]
    assert not [name for name, action in options_and_positionals() if type(action) is argparse._StoreAction]


TWICE = [
    "ask --image a --image b What?",
    "ask --tags a --tags=b What?",
    "eval grounding --data a --data b",
    "swap in --out out --encoder nosuch --encoder osprey",
    "swap in --out out --encoder osprey --delimiters --no-delimiters",
    "data mix --preset a --preset b",
    "data convert coco a --seed 1 --seed 1",
    "data convert coco a --max-bad-records 1 --max_bad_records 2",
    "plan recipe.sh --gpus 1 --gpus 2",
    "serve --model a --max-batch 2 --max-batch 3",
]


@pytest.mark.parametrize("line", TWICE)
def test_a_value_given_twice_is_refused(line, capsys):
    words = line.split()
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    *_, error = capsys.readouterr().err.splitlines()
    assert "is given twice, and only one of them would count: give it once" in error
    assert error.startswith(f"pvit-ext {' '.join(words[: 2 if words[0] == 'data' else 1])}: error: argument --")


def test_a_second_image_says_where_several_go(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ask", "--image", "a", "--image", "b", "What?"])
    assert "give it once; several images come by --file" in capsys.readouterr().err


def test_what_adds_up_may_be_repeated_and_a_parser_is_used_again():
    parser = cli.build_parser()
    words = ["data", "convert", "coco", "a", "--task", "a", "--task", "b", "--seed", "1"]
    for _ in range(2):
        assert parser.parse_args(words).task == ["a", "b"]
    boxes = parser.parse_args("ask --box 0 0 1 1 --box 1 1 2 2 --point 1 1 What?".split())
    assert [kind for kind, _ in boxes.regions] == ["box", "box", "point"]


def test_options_that_add_up_say_so():
    adding = [
        (name, action)
        for name, action in options_and_positionals()
        if isinstance(action, argparse._AppendAction) or type(action).__name__ == "_AddRegion"
    ]
    assert not [name for name, action in adding if REPEATED not in str(action.help)]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("data check a.json --image images", "--image-folder"),
        ("data a.json --image images", "--image-folder"),
        ("swap in --out out --enc osprey", "--encoder"),
    ],
)
def test_options_are_not_taken_by_a_part_of_their_name(line, word, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(line.split())
    assert f"the following arguments are required: {word}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("ask --file a --out b", "max-bad-records"),
        ("data convert coco a", "max-bad-records"),
        ("data convert coco a", "box-jitter"),
        ("data mix a.yaml", "max-bad-records"),
        ("data cache a --out b", "max-bad-records"),
        ("data tags a --out b --tagger c", "max-bad-records"),
        ("data generate a --image-folder b --out c --model d", "max-bad-records"),
    ],
)
def test_both_spellings_are_taken(line, name):
    parsed = [
        cli.build_parser().parse_args([*line.split(), flag, "0"])
        for flag in (f"--{name}", f"--{name.replace('-', '_')}")
    ]
    assert parsed[0] == parsed[1]


@pytest.mark.parametrize("command", ["ask", "demo", "serve --model a"])
def test_the_cache_of_features_has_one_name(command):
    (parsed,) = {cli.build_parser().parse_args([*command.split(), "--feature-cache", "5"]).feature_cache}
    assert parsed == 5
    if command == "ask":
        assert cli.build_parser().parse_args(["ask", "--image-cache", "5"]).feature_cache == 5


def test_what_a_base_is_reads_the_same_everywhere():
    loading = ("ask", "demo", "serve", "eval")
    bases = [
        action.help
        for name, action in options_and_positionals()
        if name.split()[1] in loading and "--base" in action.option_strings
    ]
    assert len(bases) == len(loading)
    (text,) = {*bases}
    assert all(word in text for word in ("region modules", "LoRA", "projector"))


@pytest.mark.parametrize("printed", ["print('x' * 100_000)", "print('x'); os.write(1, b'x')"])
@pytest.mark.parametrize("words", [["ask"], ["--help"]])
def test_a_reader_that_has_enough_is_no_error(words: list[str], printed: str) -> None:
    """As of ``pvit-ext data mix --presets | head -5``: printed at one go, or with a rest that waits."""
    read, write = os.pipe()
    os.close(read)
    code = (
        "import os\nfrom pvit_ext.cli import parser, ask\n"
        f"def run(args): {printed}\n"
        "ask.run = run\n"
        f"raise SystemExit(parser.main({words + ['What is <region>?'] * (words == ['ask'])!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in ({141} if words == ["ask"] else {0, 141})  # a newer argparse passes over it


@pytest.mark.parametrize(("output", "status", "said"), [(None, 0, ""), ("/dev/full", 2, "[Errno 28] No space left")])
def test_an_output_that_is_none_or_full(
    output: str | None, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of ``pvit-ext ask ... >&-``, and where the output goes to a full disk."""
    monkeypatch.setattr(cli.ask, "run", lambda args: print("an answer") or 0)
    with nullcontext() if output is None else open(output, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["ask", "What is <region>?"]) == status
    assert capsys.readouterr().err.startswith(f"pvit-ext: error: {said}" if said else "")


def test_another_broken_pipe_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise BrokenPipeError(32, "Broken pipe", "the endpoint")

    monkeypatch.setattr(cli.ask, "run", run)
    assert cli.main(["ask", "What is <region>?"]) == 2
    assert "the endpoint" in capsys.readouterr().err
