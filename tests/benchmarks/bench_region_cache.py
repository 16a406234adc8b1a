"""Stage 1 from its second epoch on: RegionCLIP's tower at full size run on every image, against maps from a cache.

The steps are those of training: a batch is read from the image files, boxes move a little, the model goes forward and
back, AdamW moves the region projector. The host is transformers' LLaVA with a small language model and a small vision
tower. The cache is filled by ``pvit_ext.data.cache`` before; its files have been read once, as after the first epoch.
Both forms give the same losses, or on the CPU the benchmark fails.

Run ``python -m tests.benchmarks.bench_region_cache`` from the repository's root; writes ``results/region_cache.csv``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pvit_ext.config import RegionConfig
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.cache.tower import TowerSource
from pvit_ext.data.cache.writer import CacheJob, fill_cache, plan_cache
from pvit_ext.data.records import load_records
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.hosts.transformers.dataset import RegionCollator, RegionDataset
from pvit_ext.training.transformers.arguments import TransformersDataArguments
from tests.benchmarks.bench_step import stock
from tests.benchmarks.harness import arguments, compare, write
from tests.hosts.transformers.inputs import picture
from tests.hosts.transformers.zoo import CHAT

BATCH, IMAGES = 4, 4
SIZES = ((1280, 960), (1280, 720), (960, 1280))


def make_data(folder: Path, regions: int) -> Path:
    """Records of one turn with so many regions each, on photographs' sizes."""
    records = []
    for number in range(IMAGES):
        width, height = SIZES[number % len(SIZES)]
        picture(width, height, number).save(folder / f"{number}.jpg", quality=90)
        boxes = [[40 + 90 * k, 60 + 20 * k, 440 + 90 * k, 500 + 20 * k] for k in range(regions)]
        question = "<image>\nwhat is in " + " or ".join(["<region>"] * regions) + " ?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a red dog"}]
        records.append({"image": f"{number}.jpg", "regions": boxes, "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def steps(model: Any, dataset: RegionDataset, processor: Any, losses: list[float]) -> Callable[[], None]:
    """A form: the next step of a run, over the batches of an epoch in turn."""
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
    """As the Trainer does it."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return [_moved(one, device) for one in value] if isinstance(value, list) else value


def case(dtype: torch.dtype, regions: int, rounds: int, device: str, width: int, layers: int) -> Iterator[Any]:
    """Both forms in one dtype."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, regions)
        config = RegionConfig("regionclip", weights=str(folder / "rn50x4.pth"))
        torch.manual_seed(0)
        torch.save(build_region_encoder(config).backbone.state_dict(), config.weights)
        kind = str(dtype).removeprefix("torch.")
        job = CacheJob(
            data, folder, folder / "cache", TowerSource.of(config, None), kind, device, torch.get_num_threads()
        )
        plan = plan_cache(job)
        fill_cache(job, plan)
        cache = FeatureCache(job.out)
        model, processor = stock(width, layers)
        processor.chat_template = CHAT.replace("IMAGE", "<image> ")
        attach(model, config, processor=processor)
        model.to(device=device, dtype=dtype).train()
        model.requires_grad_(False)
        module = model.region_module
        module.region_projector.requires_grad_(True)
        cache.check_encoder(module.region_encoder)
        module.region_encoder.stored_maps = cache
        flags = TransformersDataArguments(data_path=str(data), image_folder=name)
        forms, losses = {}, {}
        for form, stored in (("tower run", None), ("maps read", cache)):
            bad = BadRecords(0)
            dataset = RegionDataset(load_records(data, name, bad), bad, processor, flags, 2048, 0)
            dataset.region_processor = replace(dataset.region_processor, stored_maps=stored)
            losses[form] = []
            forms[form] = steps(model, dataset, processor, losses[form])
        for path in job.out.iterdir():
            path.read_bytes()
        facts = {"batch": BATCH, "regions_per_image": regions, "dtype": kind, "lm": f"{layers} layers of {width}"}
        facts |= {"bytes_per_image": plan.total // len(plan.sizes), "host": "transformers"}
        rows = compare(f"stage 1, {kind}, {regions} region(s) an image", forms, rounds, **facts)
        same = losses["tower run"] == losses["maps read"]
        if not same and device == "cpu":  # on a GPU, kernels may round by the size of a batch
            raise RuntimeError(f"the losses differ: {losses}")
        for row in rows:
            yield row | {
                "samples_per_second": round(BATCH / row["median_ms"] * 1e3, 2),
                "same_losses": "yes" if same else "no",
            }


def main() -> None:
    """Write ``results/region_cache.csv``."""
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--width", type=int, default=256, help="of the language model, default %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="of the language model, default %(default)s")
    given = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sizes = given.rounds, given.device, given.width, given.layers
    cases = [(torch.float32, 1), (torch.float32, 4), (torch.bfloat16, 1)]
    write("region_cache", (row for one in cases for row in case(*one, *sizes)), given.device, given.to)


if __name__ == "__main__":
    main()
