"""Views against the pixels that transformers, LLaVA and Pillow really produce, and against detectron2's size table."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvit_ext.regions.image import ImageError, image_size, load_image, open_image
from pvit_ext.regions.view import View, tower_view

sides = st.integers(1, 4000)
sizes = st.tuples(sides, sides)
FAST = settings(max_examples=100, deadline=None, derandomize=True)

# (height, width) -> (height, width) by detectron2's ResizeShortestEdge(800, max 1333), as RegionCLIP uses it.
RESIZE_SHORTEST_EDGE = {
    (480, 640): (800, 1067), (640, 480): (1067, 800), (427, 640): (800, 1199), (333, 500): (800, 1201),
    (500, 333): (1201, 800), (375, 1242): (402, 1333), (1200, 1600): (800, 1067), (1080, 1920): (750, 1333),
    (100, 100): (800, 800), (50, 400): (167, 1333), (400, 50): (1333, 167), (801, 1333): (800, 1331),
    (800, 1333): (800, 1333), (600, 1000): (800, 1333), (1333, 800): (1333, 800), (799, 1331): (800, 1333),
    (17, 23): (800, 1082), (1, 7): (190, 1333), (3000, 4001): (800, 1067), (426, 640): (800, 1202),
    (612, 612): (800, 800), (768, 1024): (800, 1067),
}  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), RESIZE_SHORTEST_EDGE.items())
def test_shortest_edge_gives_detectron2s_sizes(source: tuple[int, int], expected: tuple[int, int]) -> None:
    assert View.shortest_edge(source[::-1], 800, 1333).size == expected[::-1]


def test_a_line_of_an_image_keeps_one_pixel() -> None:
    assert View.shortest_edge((5000, 1), 800, 1333).size == (1333, 1)


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, int], View]:
    source = draw(sizes)
    view = View.resize(source, source)
    for step in draw(
        st.lists(st.sampled_from(["resize", "shortest", "limited", "pad", "crop"]), min_size=1, max_size=4)
    ):
        if step == "crop":
            view = view.center_crop(draw(sizes))
            continue
        view = view.then(
            {
                "resize": lambda size: View.resize(size, draw(sizes)),
                "shortest": lambda size: View.shortest_edge(size, draw(st.integers(1, 400))),
                "limited": lambda size: View.shortest_edge(size, 800, 1333),
                "pad": View.pad_to_square,
            }[step](view.size)
        )
    return source, view


@given(views(), st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
@FAST
def test_mapping_and_back_is_the_identity(chain: tuple[tuple[int, int], View], fractions: list[Any]) -> None:
    source, view = chain
    boxes = torch.tensor(fractions).reshape(-1, 4) * torch.tensor(source).repeat(2)
    there = view.map_boxes(boxes)
    assert there.dtype == torch.float32
    assert there.shape == boxes.shape
    # float32 resolves a coordinate to one part in 2**23 of the largest number on the way.
    span = torch.tensor([max(abs(shift), 1.0) / scale for shift, scale in zip(view.shift, view.scale, strict=True)] * 2)
    assert ((view.unmap_boxes(there) - boxes).abs() <= (span + boxes.abs() + max(source)) * 2.0**-22).all()


@given(sizes, sizes)
@FAST
def test_views_keep_the_middle_in_the_middle(source: tuple[int, int], target: tuple[int, int]) -> None:
    """So flipping image and box together flips the view; an odd pixel of padding or crop moves it by half a pixel."""
    whole = torch.tensor([[0.0, 0.0, *source]])
    made = {
        View.resize(source, target): 0.0,
        View.shortest_edge(source, 300): 0.0,
        View.shortest_edge(source, 800, 1333): 0.0,
        View.pad_to_square(source): 0.5,
        View.resize(source, source).center_crop(target): 0.5,
    }
    for view, slack in made.items():
        x0, y0, x1, y1 = view.map_boxes(whole)[0].tolist()
        assert abs((x0 + x1) / 2 - view.size[0] / 2) <= slack + 1e-2
        assert abs((y0 + y1) / 2 - view.size[1] / 2) <= slack + 1e-2


# Against real pixels


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, (0, 0, 0))
    image.paste((255, 255, 255), box)
    return image


def bright_box(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Box around what is bright, to a fraction of a pixel, from the mass along each axis; pixels (H, W), 0..1."""
    edges = []
    for axis in (0, 1):
        profile = pixels.max(axis)
        profile = (profile - profile.min()).clip(0, None) / (profile.max() - profile.min())
        above = np.flatnonzero(profile > 0.5)
        # Each edge is moved by how bright the pixel just outside and the outermost pixel inside are.
        first, last = above[0], above[-1]
        outside = profile[first - 1] if first else 0.0
        beyond = profile[last + 1] if last + 1 < len(profile) else 0.0
        edges.append((first + (1 - profile[first]) - outside, last + 1 - (1 - profile[last]) + beyond))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


SOURCES = [  # (width, height), box
    ((97, 97), (11, 23, 41, 77)),
    ((301, 127), (151, 17, 199, 97)),
    ((131, 333), (9, 201, 63, 259)),
    ((63, 41), (30, 5, 50, 36)),
    ((1001, 777), (400, 120, 833, 400)),
]


def clip_processor(**options: Any) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(**options)


def to_gray(pixels: torch.Tensor, processor: Any) -> np.ndarray:
    shade = pixels[0] * processor.image_std[0] + processor.image_mean[0]
    return shade.numpy().clip(0, 1)


@pytest.mark.parametrize(("size", "box"), SOURCES)
@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize(
    "options",
    [
        {"size": {"shortest_edge": 56}, "crop_size": 56},
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 49, "width": 57}},
        {"size": {"height": 56, "width": 56}, "do_center_crop": False},
        {"size": {"height": 48, "width": 72}, "do_center_crop": False},
        {"size": {"shortest_edge": 42}, "crop_size": 56},
    ],
    ids=["default", "crop", "square", "stretch", "small"],
)
def test_tower_view_is_where_llava_puts_the_pixels(
    size: tuple[int, int], box: tuple[int, int, int, int], aspect: str | None, options: dict[str, Any]
) -> None:
    mm_utils = pytest.importorskip("llava.mm_utils")
    processor = clip_processor(**options)
    pixels = mm_utils.process_images([painted(size, box)], processor, SimpleNamespace(image_aspect_ratio=aspect))[0]
    view = tower_view(processor, aspect, size)
    assert pixels.shape[1:] == view.size[::-1]
    expected = view.map_boxes(torch.tensor([box], dtype=torch.float32))[0]
    limit = torch.tensor(view.size * 2)
    clipped = torch.minimum(expected.clamp(min=0), limit).tolist()
    gray = to_gray(pixels, processor)
    if aspect == "pad":  # the mean colour of the padding is no rectangle of ours
        gray = np.where(gray > 0.75, 1.0, np.where(gray < 0.45, 0.0, gray))
        gray = (gray - 0.5).clip(0, None)
    if clipped[0] >= clipped[2] - 1 or clipped[1] >= clipped[3] - 1:
        assert gray.max() < 0.5
        return
    assert bright_box(gray) == pytest.approx(clipped, abs=1.0)


@pytest.mark.parametrize(("size", "box"), SOURCES)
def test_regionclip_view_is_where_pillow_puts_the_pixels(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    view = View.shortest_edge(size, 120, 200)
    image = painted(size, box).resize(view.size, Image.Resampling.BILINEAR)
    expected = view.map_boxes(torch.tensor([box], dtype=torch.float32))[0].tolist()
    assert bright_box(np.asarray(image)[..., 0] / 255) == pytest.approx(expected, abs=0.75)


def test_a_processor_without_crop_is_understood() -> None:
    processor = SimpleNamespace(do_resize=True, size={"height": 384, "width": 384})
    assert tower_view(processor, None, (100, 50)).size == (384, 384)


# Files


def arrow() -> np.ndarray:
    """An upright image that no rotation or reflection leaves as it is."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[2:8, 3:6], pixels[15:18, 20:28] = (255, 0, 0), (0, 255, 0)
    return pixels


# What a camera stores so that applying the orientation gives the upright image.
STORED = {
    1: lambda upright: upright, 2: np.fliplr, 3: lambda upright: np.rot90(upright, 2), 4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2), 6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2), 8: lambda upright: np.rot90(upright, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_once(orientation: int, tmp_path: Path) -> None:
    stored, exif = Image.fromarray(np.ascontiguousarray(STORED[orientation](arrow()))), Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "image.png", exif=exif)
    image = load_image(tmp_path / "image.png")
    assert np.array_equal(np.asarray(image), arrow())
    assert image_size(tmp_path / "image.png") == image.size == (30, 20)
    assert np.array_equal(np.asarray(load_image(image)), arrow())  # not a second time
    image.save(tmp_path / "again.png", exif=image.getexif())
    assert np.array_equal(np.asarray(load_image(tmp_path / "again.png")), arrow())


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert load_image(Image.new(mode, (4, 3))).mode == "RGB"


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", encoded("JPEG")[:700], encoded("PNG")[:700], encoded("PNG")[:20], encoded("GIF")[:300]],
    ids=["empty", "text", "jpeg", "png", "png header", "gif"],
)
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.img").write_bytes(content)
    with pytest.raises(ImageError, match=r"cannot read .*broken\.img"):
        load_image(tmp_path / "broken.img")


def test_bombs_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load_image(tmp_path / "none.png")
    Image.new("1", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"large\.png"), open_image(tmp_path / "large.png"):
        pass
    with pytest.raises(ImageError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))
