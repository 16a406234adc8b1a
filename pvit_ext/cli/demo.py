"""``pvit-ext demo``: point at a picture in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext import plugins
from pvit_ext.cli.ask import QUICKSTART_MODEL, model_path
from pvit_ext.cli.options import (
    add_base,
    add_feature_cache,
    check_image_folder,
    count,
    count_from_zero,
    flag_of,
    image_features,
    require_extra,
)

if TYPE_CHECKING:
    from pvit_ext.serving.demo.service import Segmenter
    from pvit_ext.serving.engine import Engine

COMMAND, EXTRA = "pvit-ext demo", "demo"


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "demo",
        help="a page to point at a picture and ask, in the browser",
        description="Serve a page on this machine: draw boxes, points, polygons and scribbles on a picture, ask about "
        "them, correct the answers and save them as training records. Nothing leaves the machine.",
    )
    parser.add_argument("--model", metavar="DIR", help=f"checkpoint, default {QUICKSTART_MODEL} if it exists")
    add_base(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on; 0.0.0.0 shows it to "
                        "the whole network (default %(default)s: this machine alone)")  # fmt: skip
    parser.add_argument(
        "--port", type=count_from_zero, default=7860, metavar="N", help="0 for any free one (default %(default)s)"
    )
    parser.add_argument(
        "--records",
        type=Path,
        default=Path("demo-records"),
        metavar="DIR",
        help="folder for what is saved on the page: records.jsonl and images (default demo-records)",
    )
    parser.add_argument(
        "--examples", type=Path, metavar="FILE", help="records whose pictures are offered to begin with"
    )
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="of the pictures in --examples")
    parser.add_argument("--segmenter", type=Path, metavar="DIR", help="a SAM 2 of transformers: clicks become masks")
    parser.add_argument("--max-new-tokens", type=count, default=128, metavar="N", help="of an answer (default 128)")
    parser.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    parser.add_argument("--system", metavar="TEXT", help="system prompt in place of the template's")
    parser.add_argument("--device", help="default cuda if there is one, else cpu")
    add_feature_cache(parser, "pictures")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command until it is interrupted; the exit status."""
    path = model_path(args.model)
    _check_places(args)
    require_extra(EXTRA, COMMAND)

    from pvit_ext.serving.answer import Settings
    from pvit_ext.serving.demo.app import Address, Parts, running
    from pvit_ext.serving.demo.examples import load_examples
    from pvit_ext.serving.demo.hints import Hints
    from pvit_ext.serving.demo.service import Setting

    address = Address(args.host, args.port)
    address.check()
    examples = tuple(load_examples(args.examples, args.image_folder))
    segmenter = _segmenter(args)
    with _engine(path, args) as engine:
        engine.check_system(args.system)
        settings = Settings(max_tokens=args.max_new_tokens)
        hints = Hints.of(getattr(engine.model, "region_config", None))
        setting = Setting(path, _ask_command(path, args), examples, hints)
        parts = Parts(lambda query: engine.submit(query, settings, args.system), setting, args.records, segmenter)
        with running(parts, address) as url:
            print(f"{url}  (Ctrl+C ends it; records are saved in {args.records})", flush=True)
            _wait()
    return 0


def _check_places(args: argparse.Namespace) -> None:
    if (args.examples is None) != (args.image_folder is None):
        raise ValueError("--examples takes records and --image-folder the folder of their pictures; give both")
    if args.examples is not None and not args.examples.is_file():
        raise FileNotFoundError(f"--examples {args.examples}: there is no such file")
    check_image_folder(args.image_folder)
    if args.records.exists() and not args.records.is_dir():
        raise NotADirectoryError(
            f"--records {args.records} is a file; name a folder, which gets records.jsonl and images"
        )


def _engine(path: str, args: argparse.Namespace) -> Engine:
    """The loaded model, as what answers questions."""
    import pvit_ext
    from pvit_ext.hosts.find import Loaded
    from pvit_ext.hosts.loading import check_conv_version
    from pvit_ext.serving.engine import Engine

    check_conv_version(path, args.base, args.conv_version)
    loaded = Loaded(*pvit_ext.load_pretrained_model(path, base=args.base, device=args.device))
    return Engine(loaded, conv_version=args.conv_version, features=image_features(args))


def _ask_command(path: str, args: argparse.Namespace) -> list[str]:
    """The words of ``pvit-ext ask`` that give the demo's answers."""
    from pvit_ext.serving.demo.copies import option_words

    words = ["pvit-ext", *(word for module in plugins.taken for word in (plugins.FLAG, module)), "ask"]
    words += option_words("--model", path)
    for name in ("base", "conv_version", "system", "device", "max_new_tokens"):
        if (value := getattr(args, name)) is not None:
            words += option_words(flag_of(name), str(value))
    return words


def _segmenter(args: argparse.Namespace) -> Segmenter | None:
    if args.segmenter is None:
        return None
    from pvit_ext.serving.demo.segmenter import load_segmenter

    return load_segmenter(args.segmenter, args.device)


def _wait() -> None:
    """Until the user ends the command."""
    import signal
    import threading

    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    ended.wait()
