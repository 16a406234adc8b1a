"""What several commands share: types of options, those of region modules, and progress on the terminal."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext import region_flags
from pvit_ext.cli.once import REPEATED
from pvit_ext.config import RegionConfig
from pvit_ext.plugins import Registry
from pvit_ext.region_flags import options

if TYPE_CHECKING:
    from pvit_ext import ImageFeatures

FEATURE_CACHE = 1024
"""MiB, where ``--feature-cache`` is not given."""
_METAVARS = {
    "encoder": "NAME",
    "weights": "FILE",
    "cross_layers": "N",
    "encoder_options": "JSON",
    "lion_adapters": "N",
    "lion_tasks": "NAMES",
    "lion_aggregator_depths": "FRACTIONS",
}


def flag_of(name: str, others: Mapping[str, str] | None = None) -> str:
    """The flag of an option as it is written.

    Args:
        name: of the option among the arguments, such as ``image_folder``.
        others: flags that are no ``--name``, by the names of their options.
    """
    return (others or {}).get(name, "--" + name.replace("_", "-"))


def flags_of(names: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """Flags for a message, with commas between; arguments as of :func:`flag_of`."""
    return ", ".join(flag_of(name, others) for name in names)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object as the type of an option."""
    try:
        return region_flags.json_object(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number from 1 on as the type of an option."""
    return _number_from(1, text)


def count_from_zero(text: str) -> int:
    """A whole number from 0 on as the type of an option."""
    return _number_from(0, text)


def _number_from(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
    return int(text)


def name_values(words: Sequence[str], flag: str = "--set", form: str = "NAME=VALUE") -> dict[str, str]:
    """What a flag such as ``--set NAME=VALUE`` gave.

    Raises:
        ValueError: for a word of another form, and for a name that is given twice.
    """
    pairs = name_value_pairs(words, flag, form)
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{flag} gives {twice[0]} twice; give it once")
    return dict(pairs)


def name_value_pairs(words: Sequence[str], flag: str, form: str) -> list[tuple[str, str]]:
    """What a flag gave that takes a name several times; see :func:`name_values`."""
    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (name, equals, _) in zip(words, pairs, strict=True) if not (name and equals)]:
        raise ValueError(f"{flag} takes {form}, got {wrong[0]!r}")
    return [(name, value) for name, _, value in pairs]


def add_region_options(
    parser: argparse.ArgumentParser, names: Sequence[str] | None = None, required: Sequence[str] = ()
) -> None:
    """Add the flags of region modules, spelled as the fields of ``RegionConfig``.

    Args:
        parser: of a command.
        names: of the fields, default all.
        required: those without which the command cannot run.
    """
    for name, kind, text, choices in options():
        if names is not None and name not in names:
            continue
        given: dict[str, Any] = {"help": text, "required": name in required}
        if kind is bool:
            given["action"] = argparse.BooleanOptionalAction
        else:
            given |= {"type": json_object if kind is dict else kind, "choices": choices, "metavar": _METAVARS.get(name)}
        parser.add_argument(flag_of(name), **given)


def region_config(args: argparse.Namespace) -> RegionConfig:
    """The config that the flags of :func:`add_region_options` give; defaults are the config's own."""
    given = {option.name: getattr(args, option.name, None) for option in options()}
    return RegionConfig(**{name: value for name, value in given.items() if value is not None})


def log_progress() -> None:
    """Show what the package logs about its progress."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pvit_ext").setLevel(logging.INFO)


def require_extra(extra: str, command: str) -> None:
    """Refuse to run a command whose optional packages are missing or too old.

    Args:
        extra: of the package, as in ``pip install "pvit-ext[extra]"``.
        command: that needs it.

    Raises:
        ValueError: with all that is missing and how to install it.
    """
    from packaging.requirements import Requirement

    missing = []
    for requirement in map(Requirement, importlib.metadata.requires("pvit-ext") or []):
        marker = requirement.marker
        if requirement.name == "pvit-ext" or marker is None or not marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{requirement.name} (not installed)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier} (found {version})")
    if missing:
        raise ValueError(f'{command} needs {", ".join(missing)}: pip install "pvit-ext[{extra}]"')


def add_base(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--base`` to a command that loads ``--model``."""
    parser.add_argument(
        "--base",
        metavar="DIR",
        help="the whole checkpoint under a --model that holds only region modules, a LoRA result or a projector; "
        "default the one that it names",
    )


def add_feature_cache(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, images: str = "images", *names: str
) -> None:
    """Add the flag of :func:`image_features`.

    Args:
        parser: of a command.
        images: what the command calls them.
        names: further names of the flag, which it had before.
    """
    parser.add_argument("--feature-cache", *names, type=count_from_zero, metavar="MIB", help="memory for what "
                        f"towers made of {images}, for more questions on the same; 0 keeps none "
                        f"({FEATURE_CACHE})")  # fmt: skip


def feature_cache_bytes(args: argparse.Namespace) -> int:
    """What the flag of :func:`add_feature_cache` gave; it is None where it is not given."""
    mebibytes: int = FEATURE_CACHE if args.feature_cache is None else args.feature_cache
    return mebibytes << 20


def image_features(args: argparse.Namespace) -> ImageFeatures | None:
    """What keeps features of images, by the flag of :func:`add_feature_cache`; None where nothing is kept."""
    import pvit_ext

    size = feature_cache_bytes(args)
    return pvit_ext.ImageFeatures(size) if size else None


def check_image_folder(folder: Path | None) -> None:
    """Refuse an ``--image-folder`` that is none.

    Raises:
        NotADirectoryError: naming it.
    """
    if folder is not None and not folder.is_dir():
        raise NotADirectoryError(f"--image-folder {folder} is not there, or is no folder")


def add_leak_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that keep the photographs of evaluation data out of training data."""
    parser.add_argument(
        "--exclude-leaks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out photographs that are known to be of val or test (default: yes)",
    )
    parser.add_argument(
        "--held-out",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="evaluation data whose photographs are left out too: refs(...).p, COCO's JSON, records, names in a .txt; "
        f"{REPEATED}",
    )


def check_leak_options(args: argparse.Namespace) -> None:
    """Refuse the two flags of :func:`add_leak_options` together.

    Raises:
        ValueError: saying why.
    """
    if args.held_out and not args.exclude_leaks:
        raise ValueError(
            "--held-out names photographs to leave out, and --no-exclude-leaks keeps them; give one of them"
        )


def add_map_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags of a command that maps over the items of its source: bad items, workers and backend."""
    parser.add_argument(
        "--max-bad-records",
        "--max_bad_records",
        type=count_from_zero,
        default=0,
        metavar="N",
        help="pass over up to N bad items (default 0)",
    )
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--backend",
        default="local",
        choices=("local", "ray"),
        help='of the processes; ray: Ray Data, from pip install "pvit-ext[ray]" (default local)',
    )


def add_tagger_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add the flags that name a tagger, as :func:`pvit_ext.data.tags.taggers.load_tagger` takes them."""
    parser.add_argument(
        "--tagger",
        required=required,
        metavar="SOURCE",
        help="FILE.json (image name: [tags]), a detector FILE.onnx, or MODULE:FUNCTION of a Pillow image",
    )
    parser.add_argument("--names", metavar="FILE", help="names of a detector's classes, one a line")
    parser.add_argument("--threshold", type=float, metavar="P", help="of a detector's score (default 0.65)")


def list_settings(registry: Registry[Any], width: int) -> str:
    """The classes of a registry, each with what ``--set`` takes.

    Args:
        registry: of classes with ``about`` and ``settings``.
        width: of the column of names, in characters.
    """
    lines = []
    for name in registry.names():
        found = registry.require(name)
        lines.append(f"{name:<{width}} {found.about}")
        for key, setting in found.settings.items():
            valid = [choice for choice in setting.choices or () if choice]  # an empty one is the default
            choices = f" ({', '.join(valid)})" if valid else ""
            lines.append(f"{'':<{width}}   --set {key}={setting.default or '...'}: {setting.about}{choices}")
    return "\n".join(lines)
