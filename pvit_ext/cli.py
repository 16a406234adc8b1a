"""The command ``pvit-ext``. Every import beyond the standard library happens in the subcommand that needs it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvit_ext.regions import Region

QUICKSTART_MODEL = Path("runs/quickstart/stage2")
COMPARISON = Path("examples/compare/run.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name, default those of the process.

    Returns:
        Exit status: 0, 1 where the subcommand found problems, 2 for an error of the user's input.
    """
    args = build_parser().parse_args(argv)
    try:
        status: int = args.handler(args)
    except Exception as error:
        if args.traceback or not _is_input_error(error):
            raise
        print(f"pvit-ext: error: {error}", file=sys.stderr)
        return 2
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="pvit-ext", description="Ask LLaVA about regions of an image.")
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_ask(commands)
    _add_swap(commands)
    _add_convert(commands)
    _add_data(commands)
    _add_doctor(commands)
    _add_compare(commands)
    return parser


def _add_ask(commands: Any) -> None:
    parser = commands.add_parser(
        "ask",
        help="ask one question about regions of an image",
        description="Ask one question. Regions fill the question's <region> placeholders in the order given, whatever "
        "their kind, in pixels of the image as a viewer shows it.",
    )
    parser.add_argument("question", metavar="QUESTION", help='such as "What digit is in <region>?"')
    parser.add_argument("--image", required=True, metavar="FILE")
    parser.add_argument("--model", metavar="DIR", help=f"checkpoint, default {QUICKSTART_MODEL} if it exists")
    parser.add_argument("--base", metavar="DIR", help="LLaVA checkpoint under a folder of region modules only")
    parser.add_argument("--box", nargs=4, type=float, action=_AddRegion, metavar=("X0", "Y0", "X1", "Y1"))
    parser.add_argument("--point", nargs=2, type=float, action=_AddRegion, metavar=("X", "Y"))
    parser.add_argument("--polygon", type=_vertices, action=_AddRegion, metavar='"X,Y X,Y X,Y ..."')
    parser.add_argument("--scribble", type=_vertices, action=_AddRegion, metavar='"X,Y X,Y ..."')
    parser.add_argument(
        "--mask", action=_AddRegion, metavar="PNG", help="one channel, the size of the image; 0 is outside"
    )
    parser.add_argument("--normalized", action="store_true", help="coordinates are 0..1 of the image, not pixels")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--device", help="default cuda if there is one, else cpu")
    parser.set_defaults(handler=_ask, regions=[])


def _add_swap(commands: Any) -> None:
    parser = commands.add_parser(
        "swap",
        help="write a checkpoint with another region encoder",
        description="Write a checkpoint with another region encoder. Everything else stays bit for bit; the language "
        "model is never loaded. The region projector stays where its width fits.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="folder of a LLaVA checkpoint, with regions or without"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--encoder", required=True, metavar="NAME", help="as `pvit-ext doctor` lists them")
    parser.add_argument("--weights", metavar="FILE", help="the encoder's own weights")
    parser.add_argument("--embed-weights", action="store_true", help="copy them into the checkpoint")
    parser.add_argument("--options", type=_json_object, default={}, metavar="JSON", help="the encoder's options")
    parser.add_argument("--projector", default="linear", choices=("linear", "mlp2x_gelu"))
    parser.add_argument("--box-embedding", action="store_true", help="add an embedding of the normalised box")
    parser.add_argument("--no-delimiters", action="store_true", help="no learned embeddings around each region")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the new modules' random values, default 0")
    parser.set_defaults(handler=_swap)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert-checkpoint",
        help="import a checkpoint of the original PVIT",
        description="Write a checkpoint of the original PVIT as one of LLaVA with regions.",
    )
    parser.add_argument("source", metavar="SRC", help="folder of the original checkpoint")
    parser.add_argument("--base", metavar="DIR", help="the checkpoint that SRC is a delta on; none for whole weights")
    parser.add_argument("--region-weights", required=True, metavar="FILE", help="RegionCLIP's own weights")
    parser.add_argument("--embed-weights", action="store_true", help="copy them into the checkpoint")
    parser.add_argument("--options", type=_json_object, default={}, metavar="JSON", help="RegionCLIP's options")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(handler=_convert)


def _add_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="check a training file and print every problem")
    parser.add_argument("file", metavar="FILE", help="LLaVA's JSON, with `regions` in its samples")
    parser.add_argument("--image-folder", required=True, metavar="DIR")
    parser.add_argument("--no-images", action="store_true", help="do not open the images")
    parser.set_defaults(handler=_data)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="versions, LLaVA, patch points, attention; says what is broken and why")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(handler=_doctor)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser("compare", help="train every region encoder on a small world; needs a checkout")
    parser.add_argument("--encoders", metavar="A,B", help="rows to train, default all")
    parser.add_argument("--budget", default="full", help="full, small, or a part of the full one such as 0.02")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="where table, CSV and plot go, default --output")
    parser.add_argument("--fresh", action="store_true", help="train rows again that are there")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.set_defaults(handler=_compare)


class _AddRegion(argparse.Action):
    """Appends (kind, value) to one list, so that regions keep their order across options."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.regions = [*namespace.regions, (self.dest, values)]


class _PrintVersion(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import pvit_ext

        print(f"pvit-ext {pvit_ext.__version__}")
        parser.exit()


def _vertices(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of points such as "10,20 30,40 50,60"') from None


def _ask(args: argparse.Namespace) -> int:
    regions = [_region(kind, value, args.normalized) for kind, value in args.regions]
    if regions and "<region>" not in args.question:
        raise ValueError(
            f"{len(regions)} region(s) given, but the question has no <region>: {args.question!r}; "
            'write <region> where a region is meant, such as "What is <region>?"'
        )
    path = _model_path(args.model)

    import pvit_ext
    from pvit_ext.views import load_image

    image = load_image(args.image)
    for region in regions:
        region.resolve(image.size, args.image)
    tokenizer, model, image_processor, _ = pvit_ext.load_pretrained_model(path, base=args.base, device=args.device)
    query = pvit_ext.Query(image, args.question, regions)
    (answer,) = pvit_ext.ask(model, tokenizer, image_processor, [query], max_new_tokens=args.max_new_tokens)
    print(answer)
    return 0


def _region(kind: str, value: Any, normalized: bool) -> Region:
    from pvit_ext.masks import PendingMask
    from pvit_ext.regions import Region

    if kind == "mask":
        return PendingMask(value).load("", "--mask")
    arguments = [value] if kind in ("polygon", "scribble") else value
    region: Region = getattr(Region, kind)(*arguments, normalized=normalized)
    return region


def _model_path(given: str | None) -> str:
    if given is None and not QUICKSTART_MODEL.is_dir():
        raise FileNotFoundError(
            f"no --model given, and {QUICKSTART_MODEL} does not exist; `make quickstart` trains one"
        )
    return given or str(QUICKSTART_MODEL)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _swap(args: argparse.Namespace) -> int:
    import torch

    from pvit_ext.config import RegionConfig
    from pvit_ext.swap import swap_encoder

    _log_progress()
    torch.manual_seed(args.seed)
    config = RegionConfig(
        encoder=args.encoder,
        weights=args.weights,
        embed_weights=args.embed_weights,
        projector=args.projector,
        box_embedding=args.box_embedding,
        delimiters=not args.no_delimiters,
        encoder_options=args.options,
    )
    swap_encoder(args.checkpoint, config, args.out)
    print(f"{args.out}: LLaVA with region encoder {args.encoder}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from pvit_ext.config import RegionConfig
    from pvit_ext.convert import convert_checkpoint

    _log_progress()
    config = RegionConfig(weights=args.region_weights, embed_weights=args.embed_weights, encoder_options=args.options)
    convert_checkpoint(args.source, config, args.out, args.base)
    print(f"{args.out}: LLaVA with PVIT's regions")
    return 0


def _log_progress() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pvit_ext").setLevel(logging.INFO)


def _data(args: argparse.Namespace) -> int:
    from pvit_ext.records import validate

    problems = validate(args.file, args.image_folder, check_images=not args.no_images)
    for problem in problems:
        print(problem)
    print(f"{args.file}: {len(problems)} problem(s)" if problems else f"{args.file}: no problems")
    return 1 if problems else 0


def _doctor(args: argparse.Namespace) -> int:
    from pvit_ext import doctor

    return doctor.main(as_json=args.json)


def _compare(args: argparse.Namespace) -> int:
    checkout = next((root for root in (Path.cwd(), Path(__file__).parents[1]) if (root / COMPARISON).is_file()), None)
    if checkout is None:
        raise FileNotFoundError(
            f"`pvit-ext compare` runs in a checkout of pvit-ext, and {Path.cwd()} is none ({COMPARISON} is missing): "
            'clone the repository, cd into it, pip install -e ".[quickstart]", and run it there'
        )
    sys.path.insert(0, str(checkout))
    from examples.compare.run import compare

    return compare(args.encoders, args.budget, args.output, args.pages, args.fresh, args.seed)


def _is_input_error(error: Exception) -> bool:
    """Errors whose message tells the user what to do; RegionError and RecordError are ValueErrors."""
    from pvit_ext.patching import PatchError

    return isinstance(error, (ValueError, OSError, PatchError))


if __name__ == "__main__":
    sys.exit(main())
