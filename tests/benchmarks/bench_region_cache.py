"""Stage 1 from its second epoch on: towers run on every image, against what a cache has of them.

The steps are those of training: a batch is read from the image files, boxes move a little, the model goes forward and
back, AdamW moves the region projector. RegionCLIP's tower is RN50x4 at full size. The host is transformers' LLaVA with
a small language model, and a small vision tower or that of LLaVA-1.5. The caches are filled by
``pvit_ext.data.cache`` before; their files have been read once, as after the first epoch. All forms give the same
losses, or on the CPU the benchmark fails.

Run ``python -m tests.benchmarks.bench_region_cache`` from the repository's root; writes ``results/region_cache.csv``.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pvit_ext.config import RegionConfig
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.key import name_of
from pvit_ext.data.cache.region_tower import RegionTowerSource
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.cache.writer import CacheJob, fill_cache, plan_cache
from pvit_ext.data.records import load_records
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.hosts.transformers.dataset import RegionCollator, RegionDataset
from pvit_ext.hosts.transformers.vision_pass import TransformersVisionPass
from pvit_ext.hosts.vision_pass import HostTower, use_stored
from pvit_ext.training.transformers.arguments import TransformersDataArguments
from tests.benchmarks.bench_step import stock
from tests.benchmarks.harness import arguments, compare, write
from tests.hosts.transformers.inputs import make_image
from tests.hosts.transformers.zoo import CHAT

BATCH, IMAGES = 4, 4
SIZES = ((1280, 960), (1280, 720), (960, 1280))


def make_data(folder: Path, regions: int) -> Path:
    """Records of one turn with so many regions each, on images of photographs' sizes."""
    records = []
    for number in range(IMAGES):
        width, height = SIZES[number % len(SIZES)]
        make_image(width, height, number).save(folder / f"{number}.jpg", quality=90)
        boxes = [[40 + 90 * k, 60 + 20 * k, 440 + 90 * k, 500 + 20 * k] for k in range(regions)]
        question = "<image>\nwhat is in " + " or ".join(["<region>"] * regions) + " ?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a red dog"}]
        records.append({"image": f"{number}.jpg", "regions": boxes, "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def steps(model: Any, dataset: RegionDataset, processor: Any, losses: list[float]) -> Callable[[], None]:
    """A form that runs the next training step at each call, over the batches of an epoch in turn."""
    projector = model.region_module.region_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.0)
    collate, device = RegionCollator(processor.tokenizer.pad_token_id), next(model.parameters()).device
    counter = iter(range(1 << 30))

    def run() -> None:
        number = next(counter)
        epoch, first = divmod(number * BATCH, IMAGES)
        batch = collate([dataset[epoch, first + k] for k in range(BATCH)])
        batch = {key: _moved(value, device) for key, value in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    return run


def _moved(value: Any, device: torch.device) -> Any:
    """Make one step as the Trainer does."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return [_moved(one, device) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Loaded:
    """A source of a vision tower that is there already."""

    tower: HostTower
    all_images: bool = True

    def open(self, device: str) -> HostTower:
        return self.tower

    def outline(self) -> HostTower:
        return self.tower


@dataclass(frozen=True)
class Case:
    """What is timed.

    Args:
        dtype: of the model, and of the cache.
        regions: on each image.
        tower: sizes of the vision tower; small without.
    """

    dtype: torch.dtype
    regions: int
    tower: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        seen = "CLIP-L/336" if self.tower else "a small one"
        return f"stage 1, {name_of(self.dtype)}, {self.regions} region(s) an image, vision tower {seen}"


CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CASES = (
    Case(torch.float32, 1),
    Case(torch.float32, 4),
    Case(torch.bfloat16, 1),
    Case(torch.bfloat16, 4),
    Case(torch.float32, 1, CLIP_L),
    Case(torch.float32, 4, CLIP_L),
    Case(torch.bfloat16, 1, CLIP_L),
    Case(torch.bfloat16, 4, CLIP_L),
)


def make_run(case: Case, folder: Path, device: str, width: int, layers: int) -> tuple[Any, Any, RegionConfig]:
    """Model, processor, and the config of its region encoder, with random weights."""
    config = RegionConfig("regionclip", weights=str(folder / "rn50x4.pth"))
    torch.manual_seed(0)
    torch.save(build_region_encoder(config).backbone.state_dict(), config.weights)
    model, processor = stock(width, layers, **case.tower)
    processor.chat_template = CHAT.replace("IMAGE", "<image> ")
    attach(model, config, processor=processor)
    model.to(device=device, dtype=case.dtype).train()
    model.requires_grad_(False)
    model.region_module.region_projector.requires_grad_(True)
    return model, processor, config


def fill(data: Path, name: str, source: Any, device: str) -> tuple[FeatureCache, int]:
    """A cache whose files have been read once, as after the first epoch, and its bytes per image."""
    job = CacheJob(data, data.parent, data.parent / name, source, device, torch.get_num_threads())
    fill_cache(job, plan_cache(job))
    stored = sum(len(path.read_bytes()) for path in job.out.glob("*.bin"))
    return FeatureCache(job.out), stored // IMAGES


def rows_of(case: Case, rounds: int, device: str, cpu_time: bool, width: int, layers: int) -> Iterator[dict[str, Any]]:
    """All forms of a case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, case.regions)
        model, processor, config = make_run(case, folder, device, width, layers)
        tower = HostTower(TransformersVisionPass(model, processor))
        maps, map_bytes = fill(data, "maps", RegionTowerSource.of(config, case.dtype), device)
        seen, seen_bytes = fill(data, "seen", Loaded(tower), device)
        maps.check_encoder(model.region_module.region_encoder)
        model.region_module.region_encoder.stored_maps = maps
        flags = TransformersDataArguments(data_path=str(data), image_folder=name)
        forms, losses = {}, {}
        sizes = {"towers run": 0, "maps read": map_bytes, "maps and image tokens read": map_bytes + seen_bytes}
        for form in sizes:
            bad = BadRecords(0)
            dataset = RegionDataset(load_records(data, name, bad), bad, processor, flags, 2048, 0)
            if form != "towers run":
                dataset.use_stored(maps, None)
            if form == "maps and image tokens read":
                use_stored(tower, seen, dataset)
            losses[form] = []
            forms[form] = steps(model, dataset, processor, losses[form])
        facts = {"batch": BATCH, "regions_per_image": case.regions, "dtype": name_of(case.dtype)}
        facts |= {"lm": f"{layers} layers of {width}", "host": "transformers"}
        facts |= {"time": "of the process" if cpu_time else "wall"}
        rows = compare(case.name, forms, rounds, time.process_time if cpu_time else None, **facts)
        same = {form: found == losses["towers run"] for form, found in losses.items()}
        if device == "cpu" and not all(same.values()):  # on a GPU, kernels may round by the size of a batch
            raise RuntimeError(f"the losses differ: {losses}")
        for row in rows:
            row |= {"samples_per_second": round(BATCH / row["median_ms"] * 1e3, 2)}
            yield row | {"bytes_per_image": sizes[row["form"]], "same_losses": "yes" if same[row["form"]] else "no"}


def main() -> None:
    """Write ``results/region_cache.csv``."""
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--width", type=int, default=256, help="hidden size, default %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="number of layers, default %(default)s")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), nargs="+", default=[*range(len(CASES))])
    parser.add_argument("--cpu-time", action="store_true", help="of the process, with one thread: on a loaded machine")
    given = parser.parse_args()
    if given.cpu_time:
        torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sizes = given.rounds, given.device, given.cpu_time, given.width, given.layers
    write("region_cache", (row for one in given.case for row in rows_of(CASES[one], *sizes)), given.device, given.to)


if __name__ == "__main__":
    main()
