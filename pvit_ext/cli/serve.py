"""``pvit-ext serve``: a model behind OpenAI's HTTP interface."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli.once import REPEATED
from pvit_ext.cli.options import (
    add_base,
    add_feature_cache,
    check_image_folder,
    count,
    count_from_zero,
    image_features,
    require_extra,
)
from pvit_ext.serving.host_name import is_loopback, name_of

if TYPE_CHECKING:
    from pvit_ext.serving.limits import Limits

API_KEY = "PVIT_EXT_API_KEY"


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "serve",
        help="serve a model to OpenAI's clients",
        description="Serve a model at /v1/chat/completions. Questions that arrive together are answered together. "
        f"Clients send the key in the environment variable {API_KEY}, where it is set, as a bearer token.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint")
    add_base(parser)
    parser.add_argument("--device", help="default cuda if there is one, else cpu")
    parser.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    parser.add_argument("--served-name", metavar="NAME", help="of the model, default the name of its folder")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default %(default)s: this machine alone)"
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default 8000; 0 takes a free one")
    parser.add_argument("--allow-host", action="append", type=_host_name, metavar="NAME", help="a name that a server "
                        f"of this machine alone without a key answers to as well; {REPEATED}")  # fmt: skip
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="also take images and masks by name from here")
    parser.add_argument("--allow-url", action="store_true", help="also fetch images from the open internet")
    _add_limits(parser.add_argument_group("limits; a request beyond one gets an answer that names its field"))
    add_feature_cache(parser)
    parser.set_defaults(handler=run)


def _add_limits(group: Any) -> None:
    group.add_argument("--max-batch", type=count, default=16, metavar="N", help="questions answered together (16)")
    group.add_argument("--batch-window", type=count_from_zero, default=5, metavar="MS",
                       help="milliseconds that a batch which is not full waits for one more (5)")  # fmt: skip
    group.add_argument("--max-queue", type=count, default=128, metavar="N", help="questions that wait (128); then 429")
    group.add_argument("--max-body", type=count, default=32, metavar="MIB", help="of a request (32)")
    group.add_argument("--max-pixels", type=count, default=64, metavar="MILLION", help="of a request's images and "
                       "masks together (64)")  # fmt: skip
    group.add_argument("--max-images", type=count, default=8, metavar="N", help="of a request (8)")
    group.add_argument("--max-regions", type=count, default=64, metavar="N", help="of a request (64)")
    group.add_argument("--max-points", type=count, default=1000, metavar="N", help="of a region (1000)")
    group.add_argument("--max-tokens", type=count, default=512, metavar="N", help="of an answer (512)")
    group.add_argument("--max-choices", type=count, metavar="N", help="answers to a question, n (8)")
    group.add_argument("--max-uploads", type=count, default=100, metavar="N", help="files that are kept (100)")
    group.add_argument("--max-upload-size", type=count, default=256, metavar="MIB", help="of these together (256)")
    group.add_argument("--keep-uploads", type=count, default=3600, metavar="S", help="seconds for a file (3600)")
    group.add_argument("--timeout", type=count, default=120, metavar="S", help="seconds for an answer (120); then 408")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    require_extra("serve", "pvit-ext serve")
    key = _key(args.host)
    hosts = _hosts(args.host, key, args.allow_host)
    check_image_folder(args.image_folder)
    _check_readable(Path(args.model))
    if (args.max_choices or 1) > args.max_queue:
        raise ValueError(f"--max-choices {args.max_choices} do not fit in --max-queue {args.max_queue}; give fewer")

    from pvit_ext.serving.server import bind

    listening = bind(args.host, args.port)

    import pvit_ext
    from pvit_ext.cli.options import log_progress
    from pvit_ext.hosts.find import Loaded
    from pvit_ext.hosts.loading import check_conv_version
    from pvit_ext.serving.app import Service
    from pvit_ext.serving.engine import Batching, Engine
    from pvit_ext.serving.image_loader import ImageLoader
    from pvit_ext.serving.metrics import Metrics
    from pvit_ext.serving.server import run as run_server
    from pvit_ext.serving.uploads import UploadLimits, Uploads

    log_progress()
    check_conv_version(args.model, args.base, args.conv_version)
    loaded = pvit_ext.load_pretrained_model(args.model, base=args.base, device=args.device)
    metrics = Metrics()
    batching = Batching(args.max_batch, args.max_queue, args.batch_window / 1000)
    engine = Engine(Loaded(*loaded), batching, args.conv_version, metrics, image_features(args))
    name = args.served_name or Path(args.model).resolve().name
    uploads = Uploads(UploadLimits(args.max_uploads, args.max_upload_size * 2**20, args.keep_uploads))
    loader = ImageLoader(_limits(args), args.image_folder, args.allow_url, uploads=uploads)
    run_server(Service(engine, name, loader, metrics, key, hosts), listening)
    return 0


def _check_readable(folder: Path) -> None:
    """safetensors writes for the owner alone, and says of a file of another that it is not there."""
    closed = [file for file in folder.glob("*") if not os.access(file, os.R_OK)]
    if closed:
        raise PermissionError(f"this user may not read {closed[0]}; its owner can allow it: chmod -R a+rX {folder}")


def _limits(args: argparse.Namespace) -> Limits:
    from pvit_ext.serving.limits import Limits

    return Limits(
        body=args.max_body * 2**20,
        pixels=args.max_pixels * 1_000_000,
        images=args.max_images,
        regions=args.max_regions,
        points=args.max_points,
        tokens=args.max_tokens,
        choices=args.max_choices or min(Limits.choices, args.max_queue),
        seconds=args.timeout,
        requests=args.max_queue + args.max_batch,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def _key(host: str) -> str | None:
    """The key that clients must send; an empty one is a mistake in the environment, not an open server."""
    key = os.environ.get(API_KEY)
    if key is not None and (not key.strip() or not key.isascii()):
        raise ValueError(f"{API_KEY} is set and empty, or not ASCII; set a key, or unset it for a server without one")
    if key is None and not is_loopback(host):
        print(f"pvit-ext: warning: {host} is reachable by others, and {API_KEY} is not set", file=sys.stderr)
    return key and key.strip()


def _host_name(text: str) -> str:
    name = name_of(text)
    if name is None or name != text.lower().strip("[]") or "*" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a host; give it alone, without http:// and port")
    return name


def _hosts(host: str, key: str | None, given: list[str] | None) -> list[str] | None:
    """Names that the server answers to beside its own machine's; None for any."""
    if key is None and is_loopback(host):
        return given or []
    if given:
        why = f"{API_KEY} is set" if key is not None else f"--host {host} is reachable by others"
        raise ValueError(f"--allow-host {given[0]}: {why}, and so any name is answered to; leave it out")
    return None
