"""`pvit-ext convert-checkpoint` against the original's numbers (golden g6b), whole and as a delta on a base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pvit_ext import Region, cli
from pvit_ext.encoders.regionclip.encoder import build
from pvit_ext.tools.shards import open_checkpoint, save_tensors
from tests.checkpoints import OPTIONS, config, load, relayout
from tests.goldens import rules
from tests.goldens.shapes import header, ruled_state_dict
from tests.tiny import build_tokenizer
from tests.tools.swapping import refused

GOLDENS = Path(__file__).parents[1] / "goldens"
GOLDEN = "g6b_pvit_path"
ORIGINAL_SIZES = [(128, 96), (90, 150), (80, 80)]
WIDE = {**OPTIONS, "output_dim": 640}
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def golden(name: str = GOLDEN) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


def original_tensors() -> dict[str, Tensor]:
    return {key: rules.weight(key, shape, 6) for key, shape in header(GOLDEN, "shapes").items()}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 patches of width 1024, as the original's; tests put the golden's features in place of its output."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    folder = tmp_path_factory.mktemp("tower")
    sizes = {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 8, "image_size": 224}
    CLIPVisionModel(CLIPVisionConfig(hidden_size=1024, patch_size=14, **sizes)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def region_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RegionCLIP with the original's 640 features."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("weights") / "regionclip.safetensors"
    save_tensors(path, build(config(encoder_options=WIDE)).backbone.state_dict())
    return path


@pytest.fixture
def original(tower: Path, tmp_path: Path) -> Path:
    """A folder as the original's training writes it."""
    return write_original(tmp_path / "pvit", tower, original_tensors())


def write_original(folder: Path, tower: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    llama, ids = header(GOLDEN, "llama"), header(GOLDEN, "ids")
    values = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": llama["hidden"],
        "num_hidden_layers": llama["layers"],
        "num_attention_heads": llama["heads"],
        "intermediate_size": llama["intermediate"],
        "vocab_size": llama["vocab"],
        "rms_norm_eps": 1e-6,
        "mm_vision_tower": str(tower),
        "mm_hidden_size": 1024,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -2,
        "use_mm_proj": True,
        "mm_use_region_clip": "model_weights/regionclip_pretrained-cc_rn50x4.pth",
        "mm_use_bbox_fc": True,
        "tune_mm_prompt_only": False,
        "region_start_token": ids["<Region>"],
        "region_end_token": ids["</Region>"],
    }
    (folder / "config.json").write_text(json.dumps(values))
    build_tokenizer(folder)
    filler = {f"<filler{number}>": number for number in range(330, 400)}
    (folder / "added_tokens.json").write_text(json.dumps(filler | ids))
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
    torch.save({**tensors, **frequencies}, folder / "pytorch_model.bin")
    return folder


def convert(source: Path, weights: Path, out: Path, *arguments: str, options: Any = WIDE) -> Any:
    given = [str(source), "--weights", str(weights), "--encoder-options", json.dumps(options), "--out", str(out)]
    status = cli.main(["--traceback", "convert-checkpoint", *given, *arguments])
    assert status == 0
    return load(out)


def compressed(ids: Tensor, other: Tensor) -> Tensor:
    """Rows of ``other`` where LLaVA's prompt has a token: one for 256 patches, one for <Region>, feature, </Region>."""
    special = header(GOLDEN, "ids")
    patch, region, end = special["<im_patch>"], special["<Region>"], special["</Region>"]
    before = torch.cat([torch.tensor([-1]), ids[:-1]])
    is_repeat = (ids == patch) & (before == patch)
    keep = ~is_repeat & ~((ids == patch) & (before == region)) & (ids != end)
    return other[keep]


def original_inputs(numbers: dict[str, Tensor]) -> dict[str, Any]:
    special = header(GOLDEN, "ids")
    rows = []
    for ids, mask in zip(numbers["in.input_ids"], numbers["in.attention_mask"], strict=True):
        tokens = compressed(ids, ids)
        tokens[tokens == special["<im_patch>"]] = -200
        tokens[tokens == special["<Region>"]] = -300
        rows.append((tokens, compressed(ids, mask)))
    ids, mask = (torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
    return {"input_ids": ids, "attention_mask": mask}


def regions_of(numbers: dict[str, Tensor]) -> list[list[Region] | None]:
    """The original normalises the jittered boxes by the resized image."""
    result: list[list[Region] | None] = []
    for sample in (0, 1):
        _, height, width = header(GOLDEN, "resized")[sample]
        boxes = numbers[f"in.region_clip_boxes{sample}"] / torch.tensor([width, height, width, height])
        result.append([Region.box(*box, normalized=True) for box in boxes.tolist()])
    return [*result, None]


def assert_golden(model: Any, features: Tensor | None = None) -> None:
    """Logits and loss of the original, given its image features and these, or its own, region features (5, 640).

    Its labels name <Region> and the patch token in an answer as well, which ours do not.
    """
    numbers, parts = golden(), golden("g6b_region_features")
    if features is None:
        features = torch.cat([parts["mid.region_feats0"], parts["mid.region_feats1"]])
    hidden = rules.normal("g6.vision_hidden", (3, 257, 1024), 6)
    model.get_vision_tower().forward = lambda images: hidden[:, 1:]
    model.get_model().region_encoder.forward = lambda inputs: features[:, None]
    pixels = {"pixels": torch.zeros(3, 32, 32, dtype=torch.uint8)}
    with torch.no_grad():
        output = model(
            **original_inputs(numbers),
            images=torch.zeros(3, 3, 224, 224),
            image_sizes=ORIGINAL_SIZES,
            regions=regions_of(parts),
            region_extra=[pixels] * 3,
        )
    mask = numbers["in.attention_mask"][:, ::13]
    found, wanted = output.logits[:, ::13][mask], numbers["out.base.logits_every13"][mask]
    assert (found - wanted).norm() / wanted.norm() < 1e-5
    loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].transpose(1, 2), numbers["in.labels"][:, 1:])
    assert abs(float(loss) - float(numbers["out.base.loss"])) < 1e-5


def test_whole_weights(original: Path, region_weights: Path, tmp_path: Path) -> None:
    model = convert(original, region_weights, tmp_path / "out")
    assert_golden(model)
    assert model.region_config.box_embedding
    assert model.region_config.weights == str(region_weights)


@pytest.mark.parametrize(
    ("suffix", "count", "base_suffix", "base_count"),
    [(".bin", 1, ".bin", 2), (".safetensors", 3, ".safetensors", 2), (".bin", 2, ".safetensors", 1)],
)
def test_delta(
    original: Path, region_weights: Path, tmp_path: Path, suffix: str, count: int, base_suffix: str, base_count: int
) -> None:
    delta, base = as_delta(original, tmp_path)
    delta = relayout(delta, tmp_path / "delta-shards", suffix, count)
    base = relayout(base, tmp_path / "base-shards", base_suffix, base_count)
    model = convert(delta, region_weights, tmp_path / "out", "--base", str(base))
    assert_golden(model)


def as_delta(original: Path, folder: Path) -> tuple[Path, Path]:
    """The original as a delta on another LLaMA of 400 tokens, and that LLaMA, which has no LLaVA tensor."""
    whole, under = original_tensors(), {}
    for key, value in whole.items():
        if not key.startswith(("model.mm_projector", "model.prompt_projector", "model.bbox_fc")):
            shape = (400, *value.shape[1:]) if key in EMBEDDINGS else value.shape
            under[key] = rules.weight(key, shape, 9)
            whole[key] = torch.cat([value[: len(under[key])] - under[key], value[len(under[key]) :]])
    values = json.loads((original / "config.json").read_text())
    delta = write_original(folder / "delta", Path(values["mm_vision_tower"]), whole)
    base = folder / "llama"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    torch.save(under, base / "pytorch_model.bin")
    return delta, base


def test_grown_rows_and_half_precision(original: Path, region_weights: Path, tmp_path: Path) -> None:
    """The sum is rounded once; rows that the base lacks stand as they are, and the delimiters are two of them."""
    delta, base = as_delta(original, tmp_path)
    delta = relayout(delta, tmp_path / "half", ".safetensors", 2, torch.float16)
    convert(delta, region_weights, tmp_path / "out", "--base", str(base))
    (given, below, found) = (dict(c.read(c.tensors)) for c in map(open_checkpoint, (delta, base, tmp_path / "out")))
    for key in EMBEDDINGS:
        assert found[key].dtype == torch.float16
        assert torch.equal(found[key][:400], (given[key][:400].float() + below[key]).half())
        assert torch.equal(found[key][400:], given[key][400:])
    assert torch.equal(found["model.region_projector.delimiters.weight"], found[EMBEDDINGS[0]][403:405].float())
    norm = "model.norm.weight"
    assert torch.equal(found[norm], (given[norm].float() + below[norm]).half())


def test_what_is_left_out_is_said(
    original: Path, region_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pvit_ext")
    convert(original, region_weights, tmp_path / "out")
    assert "2 tensors *.rotary_emb.inv_freq* are left out: computed from the config" in caplog.text
    assert not [name for name in open_checkpoint(tmp_path / "out").tensors if "inv_freq" in name]


def test_without_a_box_embedding(tower: Path, region_weights: Path, tmp_path: Path) -> None:
    """As after the original's stage 1."""
    tensors = {key: value for key, value in original_tensors().items() if "bbox_fc" not in key}
    model = convert(write_original(tmp_path / "pvit", tower, tensors), region_weights, tmp_path / "out")
    assert not model.region_config.box_embedding


def test_then_ask(original: Path, region_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(original, region_weights, tmp_path / "out")
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "image.png")
    capsys.readouterr()
    question = ["What is in <Region><L100><L100><L500><L900></Region>?", "--max-new-tokens", "4", "--device", "cpu"]
    assert cli.main(["ask", "--model", str(tmp_path / "out"), "--image", str(tmp_path / "image.png"), *question]) == 0
    assert capsys.readouterr().out.strip()


def change(folder: Path, **tensors: Tensor | None) -> None:
    path = folder / "pytorch_model.bin"
    changed = {**torch.load(path), **tensors}
    torch.save({key: value for key, value in changed.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.prompt_encoder.x": torch.zeros(2)}, r"1 of 23 unexpected: model\.prompt_encoder\.x"),
        ({"model.norm.weight": None}, r"1 of 23 missing: model\.norm\.weight"),
        ({"lm_head.weight": torch.zeros(404, 32)}, r"lm_head\.weight \(404, 32\) instead of \(405, 32\)"),
        ({"model.prompt_projector.bias": None}, r"missing: region_projector\.features\.bias"),
        ({"model.norm.weight": torch.full((32,), 0.01)}, r"looks like a delta.*--base"),
    ],
)
def test_tensors_that_do_not_fit(
    original: Path, region_weights: Path, tmp_path: Path, tensors: Any, message: str
) -> None:
    change(original, **tensors)
    with refused(tmp_path, ValueError, message):
        convert(original, region_weights, tmp_path / "out")


def test_bases_that_do_not_fit(original: Path, region_weights: Path, tmp_path: Path) -> None:
    delta, base = as_delta(original, tmp_path)
    with refused(tmp_path, ValueError, "looks like whole weights, not a delta.*leave --base out"):
        convert(original, region_weights, tmp_path / "out", "--base", str(base))
    change(base, **{"model.norm.weight": None, "lm_head.weight": torch.zeros(400, 16)})
    with refused(
        tmp_path, ValueError, r"lm_head\.weight is \(405, 32\) on \(400, 16\), model\.norm\.weight is missing"
    ):
        convert(delta, region_weights, tmp_path / "out", "--base", str(base))


def test_another_checkpoint(llava_checkpoint: Path, region_weights: Path, tmp_path: Path) -> None:
    with refused(tmp_path, ValueError, r"config\.json has no \['region_start_token', 'region_end_token'\]"):
        convert(llava_checkpoint, region_weights, tmp_path / "out")


@pytest.mark.slow
def test_with_regionclip_at_true_size(original: Path, tmp_path: Path) -> None:
    """Region features by the tower of the converted checkpoint, on images padded to one batch as the original's."""
    weights = tmp_path / "regionclip_pretrained-cc_rn50x4.pth"
    torch.save({"model": ruled_state_dict("g1c_regionclip_rn50x4", "backbone", 1)}, weights)
    model = convert(original, weights, tmp_path / "out", options={})
    encoder = model.get_model().region_encoder
    images = [Image.fromarray(rules.image(f"g6.im{i}", h, w, 6)) for i, (w, h) in enumerate(ORIGINAL_SIZES)]
    pixels = [encoder.normalize(encoder.preprocess(image, [])["pixels"]) for image in images]
    batch = pixels[0].new_zeros(3, 3, *(max(image.shape[axis] for image in pixels) for axis in (1, 2)))
    for row, image in zip(batch, pixels, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    boxes = [golden("g6b_region_features")[f"in.region_clip_boxes{sample}"] for sample in (0, 1)]
    index = torch.cat([torch.full((len(part),), sample) for sample, part in enumerate(boxes)])
    with torch.no_grad():
        assert_golden(model, encoder.encode(batch, torch.cat(boxes), index))
