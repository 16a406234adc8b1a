"""SAM 2 behind the page: a tiny one of transformers' own classes with random weights, and folders that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pvit_ext.regions.region import Region

pytest.importorskip("transformers.models.sam2", reason="this transformers has no SAM 2")
from pvit_ext.serving.demo.app import Address, Parts, running
from pvit_ext.serving.demo.segmenter import Segmenter, load_segmenter
from pvit_ext.serving.demo.service import Setting
from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import COMMAND, Demo, Model
from tests.serving.demo.test_page import drag, tool
from tests.serving.demo.test_pixels import open_picture, regions

pytestmark = pytest.mark.slow
SIDE, SIZE = 64, (90, 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Sam2Config, Sam2Model

    path = tmp_path_factory.mktemp("sam2")
    hiera = {"image_size": [SIDE, SIDE], "hidden_size": 8, "num_attention_heads": 1, "blocks_per_stage": [1, 1, 2, 1]}
    hiera |= {"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2]}
    hiera |= {"window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3]}
    hiera |= {"window_positional_embedding_background_size": [4, 4], "model_type": "sam2_hiera_det_model"}
    vision = {"backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    torch.manual_seed(3)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return load_segmenter(folder, "cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8)).save(file)
    return file


@pytest.mark.parametrize("region", [Region.point(30, 20), Region.box(10, 10, 50, 40)])
def test_a_mask_has_the_pictures_size(region: Region, segmenter: Segmenter, picture: Path) -> None:
    mask = segmenter.segment(picture, region.resolve(SIZE))
    assert (mask.shape, mask.dtype) == (SIZE[::-1], np.bool_)
    assert mask.any()
    Region.mask(mask).resolve(SIZE)


def test_other_regions_and_folders_are_refused(
    segmenter: Segmenter, folder: Path, picture: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a point or a box, not a scribble"):
        segmenter.segment(picture, Region.scribble([(3, 3), (9, 9)]).resolve(SIZE))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ValueError, match="is a llava, not SAM 2"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="its weights cannot be read"):
        load_segmenter(tmp_path, "cpu")


@pytest.mark.browser
def test_a_click_and_a_box_become_masks_on_the_page(
    page: Page, demo: Demo, segmenter: Segmenter, picture: Path, tmp_path: Path
) -> None:
    setting = Setting("a model", COMMAND)
    with running(Parts(Model(), setting, tmp_path / "records", segmenter), Address(port=0)) as address:
        page.open(address)
        open_picture(page, picture)
        tool(page, "segment")
        drag(page, (30, 20), size=SIZE)
        page.until("document.querySelectorAll('#regions li').length === 1")
        drag(page, (10, 10), (50, 40), size=SIZE)
        page.until("document.querySelectorAll('#regions li').length === 2")
        clicked, boxed = (Region.mask(shape["mask"]).resolve(SIZE) for shape in regions(page))
    for found, region in ((clicked, Region.point(30, 20)), (boxed, Region.box(10, 10, 50, 40))):
        wanted = segmenter.segment(picture, region.resolve(SIZE))
        assert (found.to_mask(SIZE) == wanted).mean() > 0.95  # the pointer is on whole pixels of the screen
    page.open(demo.address)
