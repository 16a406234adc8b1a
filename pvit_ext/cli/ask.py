"""``pvit-ext ask``: one question about regions of an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvit_ext.regions.region import Region

QUICKSTART_MODEL = Path("runs/quickstart/stage2")


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
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
    parser.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    parser.add_argument("--system", metavar="TEXT", help="system prompt in place of the template's")
    parser.add_argument("--device", help="default cuda if there is one, else cpu")
    parser.set_defaults(handler=run, regions=[])


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    regions = [_region(kind, value, args.normalized) for kind, value in args.regions]
    if regions and "<region>" not in args.question:
        raise ValueError(
            f"{len(regions)} region(s) given, but the question has no <region>: {args.question!r}; "
            'write <region> where a region is meant, such as "What is <region>?"'
        )
    path = _model_path(args.model)

    import pvit_ext
    from pvit_ext.regions.image import load_image

    image = load_image(args.image)
    for region in regions:
        region.resolve(image.size, args.image)
    tokenizer, model, image_processor, _ = pvit_ext.load_pretrained_model(path, base=args.base, device=args.device)
    query = pvit_ext.Query(image, args.question, regions)
    options = {"max_new_tokens": args.max_new_tokens, "conv_version": args.conv_version, "system": args.system}
    (answer,) = pvit_ext.ask(model, tokenizer, image_processor, [query], **options)
    print(answer)
    return 0


class _AddRegion(argparse.Action):
    """Appends (kind, value) to one list, so that regions keep their order across options."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.regions = [*namespace.regions, (self.dest, values)]


def _vertices(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of points such as "10,20 30,40 50,60"') from None


def _region(kind: str, value: Any, normalized: bool) -> Region:
    from pvit_ext.regions.mask import PendingMask
    from pvit_ext.regions.region import Region

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
