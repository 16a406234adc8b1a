"""The cache of region features: what it holds, when it refuses, and that it is the same however it was filled."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext.cli.parser import main
from pvit_ext.config import RegionConfig
from pvit_ext.data.cache import shard, writer
from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.region_tower import RegionTowerSource
from pvit_ext.data.cache.shard import ShardWork
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.cache.writer import plan_cache
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.regions.image import load_image
from pvit_ext.regions.region import RegionError
from tests.checkpoints import OPTIONS, config
from tests.data.cache.jobs import contents, fill, job, record


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_map_is_what_the_tower_makes_of_the_image(data: Path, regionclip_weights: Path, dtype: str) -> None:
    one = job(data, regionclip_weights, dtype=dtype)
    cache = fill(one)
    encoder = one.source.open("cpu").encoder
    for number in range(6):
        found = cache.read(cache.number(f"{number}.png"))
        image = load_image(data.parent / f"{number}.png")
        expected = encoder.run_tower(encoder.pixels(image)[None])[0]
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
        assert tuple(found.shape) == encoder.map_shape(image.size)
    with pytest.raises(RegionError, match=r"no map of 6.png"):
        cache.number("6.png")
    again = pickle.loads(pickle.dumps(cache))
    assert torch.equal(again.read(0), cache.read(0))


@pytest.mark.parametrize("before", ["opened", "read", "sent to a worker"])
def test_maps_that_are_written_anew_under_a_reader_are_refused(
    data: Path, regionclip_weights: Path, before: str
) -> None:
    """Another cache under the same name has its maps elsewhere."""
    cache = fill(job(data, regionclip_weights))
    number = cache.number("0.png")
    if before == "read":
        cache.read(number)
    elif before == "sent to a worker":
        cache = pickle.loads(pickle.dumps(cache))
    for path in cache.folder.glob("*.bin"):
        raw = path.read_bytes()
        path.write_bytes(raw[::-1])
        os.utime(path, ns=(1, 1))
    with pytest.raises(CacheError, match=r"maps-0000\d.bin has changed since .* was opened: start the run again"):
        cache.read(cache.number("0.png"))


def test_the_plan_tells_the_bytes_that_are_written(
    data: Path, regionclip_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = job(data, regionclip_weights)
    total = plan_cache(one).total
    assert total == sum(path.stat().st_size for path in fill(one).folder.glob("*.bin"))
    words = ["data", "cache", str(data), "--image-folder", str(data.parent), "--out", str(data.parent / "x")]
    words += ["--encoder-options", json.dumps(OPTIONS), "--dtype", "float32", "--dry_run"]
    assert main(words) == 0  # without weights
    text = capsys.readouterr().out
    assert "6 images with regions" in text
    assert f"{total / 1000:.2f} kB in all" in text
    assert not (data.parent / "x").exists()


def test_the_command_fills_a_cache(data: Path, regionclip_weights: Path, tmp_path: Path) -> None:
    words = ["data", "cache", str(data), "--image-folder", str(data.parent), "--out", str(tmp_path / "made")]
    words += ["--weights", str(regionclip_weights), "--encoder-options", json.dumps(OPTIONS)]
    assert main(words) == 0
    cache = FeatureCache(tmp_path / "made")
    assert cache.key["dtype"] == "bfloat16"
    assert main(words) == 2  # it exists


def test_an_interrupted_cache_goes_on_and_appears_when_it_is_complete(
    data: Path, regionclip_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(fill(job(data, regionclip_weights, "whole")).folder)
    one, made = job(data, regionclip_weights), []
    stock = ShardWork.__call__

    def stop_at_the_third(work: ShardWork, batch: Any) -> Any:
        if len(made) == 2:
            (work.folder / ".maps-00002.0.tmp.bin").write_bytes(b"what kill -9 leaves")
            raise KeyboardInterrupt
        made.extend(shard.number for shard in batch)
        return stock(work, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWork, "__call__", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            fill(one)
    assert not one.out.exists()
    with pytest.raises(CacheError, match=r"no cache of region features.*unfinished, the same command goes on"):
        FeatureCache(one.out)

    def count(work: ShardWork, batch: Any) -> Any:
        made.extend(shard.number for shard in batch)
        return stock(work, batch)

    monkeypatch.setattr(ShardWork, "__call__", count)
    assert contents(fill(one).folder) == expected
    assert made == sorted(set(made))
    assert not one.part.exists()


def test_a_full_disk_loses_nothing(data: Path, regionclip_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(fill(job(data, regionclip_weights, "plain")).folder)
    one, stock = job(data, regionclip_weights), shard._append

    def write(stream: Any, tensor: Any) -> Any:
        if "maps-00001" in stream.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return stock(stream, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "_append", write)
        with pytest.raises(CacheError, match=r"writing to .*cache.part failed .*No space.*the same command goes on"):
            fill(one)
    assert {path.name for path in one.part.iterdir()} == {"lock", "maps-00000.bin", "maps-00000.jsonl", "plan.json"}
    made = (one.part / "maps-00000.bin").stat().st_mtime_ns
    assert contents(fill(one).folder) == expected
    assert (one.out / "maps-00000.bin").stat().st_mtime_ns == made


def test_half_of_another_cache_is_not_taken_over(data: Path, regionclip_weights: Path, tmp_path: Path) -> None:
    one = job(data, regionclip_weights)
    one.part.mkdir()
    fill(one).folder.rename(tmp_path / "away")
    one.part.mkdir()
    other = one.source.open("cpu").key() | {"tower": "0"}
    (one.part / "plan.json").write_text(json.dumps({"key": other, "shards": []}))
    with pytest.raises(CacheError, match=r"half of another cache \(the tower has other weights\): remove it"):
        fill(one)


def test_an_image_that_changed_since_it_was_stored_is_stored_again(data: Path, regionclip_weights: Path) -> None:
    one = job(data, regionclip_weights)
    shards = plan_cache(one).shards()
    one.part.mkdir()
    plan = plan_cache(one)
    work = ShardWork(one.source, "cpu", 1, one.part)
    work([writer.Shard(number, [(name, plan.paths[name]) for name in names]) for number, names in enumerate(shards)])
    Image.new("RGB", (90, 70)).save(data.parent / "4.png")
    cache = fill(one)
    assert torch.equal(cache.read(cache.number("4.png")), fill(job(data, regionclip_weights, "b")).read(4))
    cache.check_images(str(data), str(data.parent), [])


def refused(cache: FeatureCache, weights: Path | None = None, dtype: Any = torch.float32, **options: Any) -> str:
    """Why an encoder cannot use it."""
    chosen = RegionConfig("regionclip", weights=str(weights), encoder_options={**OPTIONS, **options})
    with pytest.raises(CacheError) as caught:
        cache.check_encoder(RegionTowerSource(chosen, dtype).open("cpu").encoder)
    return str(caught.value)


def test_a_cache_of_another_tower_preprocessing_or_dtype_is_refused(
    data: Path, regionclip_weights: Path, tmp_path: Path
) -> None:
    cache = fill(job(data, regionclip_weights))
    cache.check_encoder(job(data, regionclip_weights).source.open("cpu").encoder)
    tensors = torch.load(regionclip_weights)["model"]
    tensors["backbone.layer3.0.conv1.weight"][0, 0, 0, 0] += 1e-3
    torch.save({"model": tensors}, tmp_path / "other.pth")
    assert "the tower has other weights" in refused(cache, tmp_path / "other.pth")
    found = refused(cache, regionclip_weights, shortest_edge=48)
    assert "another preprocessing: shortest_edge was 32, is 48" in found
    assert "other weights" not in found
    assert "its maps are float32, the tower computes in bfloat16" in refused(cache, regionclip_weights, torch.bfloat16)


def test_layers_behind_the_stored_map_may_differ(data: Path, regionclip_weights: Path, tmp_path: Path) -> None:
    cache = fill(job(data, regionclip_weights))
    tensors = torch.load(regionclip_weights)["model"]
    tensors["backbone.layer4.0.conv1.weight"] += 1
    torch.save({"model": tensors}, tmp_path / "other.pth")
    other = RegionTowerSource(config(weights=str(tmp_path / "other.pth")), torch.float32)
    cache.check_encoder(other.open("cpu").encoder)


def test_another_pillow_is_another_preprocessing(
    data: Path, regionclip_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(job(data, regionclip_weights))
    stock = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, size, _: stock(image, size, Image.Resampling.NEAREST))
    assert "the same image gives other pixels here" in refused(cache, regionclip_weights)


def test_an_encoder_without_a_tower_or_that_trains_is_refused(data: Path, regionclip_weights: Path) -> None:
    for name, needs in itertools.product(("text", "osprey", "focal"), (False, True)):
        with pytest.raises(CacheError, match=rf"'{name}' has no tower of its own.*behind --run"):
            RegionTowerSource.of(RegionConfig(name), torch.float32, needs_weights=needs)
    with pytest.raises(ValueError, match="unknown region encoder 'nosuch'"):
        RegionTowerSource.of(RegionConfig("nosuch"), torch.float32)
    with pytest.raises(CacheError, match=r"weights are not named.*--weights FILE"):
        RegionTowerSource.of(RegionConfig("regionclip"), torch.float32)
    cache = fill(job(data, regionclip_weights))
    with pytest.raises(CacheError, match=r"None has no tower of its own"):
        cache.check_encoder(None)
    encoder = job(data, regionclip_weights).source.open("cpu").encoder
    encoder.requires_grad_(True)
    with pytest.raises(CacheError, match=r"'regionclip' trains, its maps would change"):
        cache.check_encoder(encoder)


def check_images(cache: FeatureCache, data: Path) -> None:
    records = load_records(data, data.parent)
    cache.check_images(str(data), str(data.parent), list(records))


def test_other_bytes_of_an_image_and_missing_images_are_refused(data: Path, regionclip_weights: Path) -> None:
    cache = fill(job(data, regionclip_weights))
    check_images(cache, data)
    image = data.parent / "1.png"
    os.utime(image, (1, 1))  # copied
    check_images(cache, data)
    before = image.read_bytes()
    image.write_bytes(bytes(reversed(before)))
    with pytest.raises(CacheError, match=r"made of other files than 1 image\(s\): 1.png"):
        check_images(cache, data)
    image.unlink()
    with pytest.raises(CacheError, match=r"made of other files than 1 image\(s\): 1.png"):
        cache.check_images(str(data), str(data.parent), [])
    image.write_bytes(before)
    other = data.with_name("other.json")
    other.write_text(json.dumps([record("6.png"), record("0.png"), record("missing/../6.png", image="6.png")]))
    with pytest.raises(CacheError, match=r"lacks 1 image\(s\): 6.png of .*other.json"):
        check_images(cache, other)
    other.write_text(json.dumps([record("5.png"), record("0.png")]))  # a part of the images
    check_images(cache, other)


@pytest.mark.parametrize("harm", ["short", "no maps", "list", "about"])
def test_a_damaged_cache_is_refused(data: Path, regionclip_weights: Path, harm: str) -> None:
    folder = fill(job(data, regionclip_weights)).folder
    if harm == "short":
        os.truncate(folder / "maps-00001.bin", 100)
    elif harm == "no maps":
        (folder / "maps-00000.bin").unlink()
    elif harm == "list":
        lines = (folder / "images.jsonl").read_text().splitlines()
        (folder / "images.jsonl").write_text("\n".join(lines[:-1]))
    else:
        (folder / "cache.json").write_text("{")
    with pytest.raises(CacheError, match=r"is damaged \(.+\): make it with `pvit-ext data cache`"):
        FeatureCache(folder)


def test_images_that_cannot_be_read_are_counted_against_the_limit(data: Path, regionclip_weights: Path) -> None:
    image = data.parent / "4.png"
    image.write_bytes(image.read_bytes()[:400])  # its header can be read
    (data.parent / "5.png").write_bytes(b"none")
    with pytest.raises(RecordError, match=r"5.png.*no kind of image"):
        fill(job(data, regionclip_weights))
    with pytest.raises(RecordError, match=r"2 bad records, --max_bad_records allows 1.*\n.*4.png"):
        fill(job(data, regionclip_weights, max_bad_records=1))
    cache = fill(job(data, regionclip_weights, max_bad_records=2))
    check_images(cache, data)
    with pytest.raises(RegionError, match=r"no map of 5.png: .*no kind of image"):
        cache.number("5.png")


def test_two_processes_do_not_fill_one_folder(data: Path, regionclip_weights: Path) -> None:
    one = job(data, regionclip_weights)
    one.part.mkdir()
    with writer._alone(one.part), pytest.raises(CacheError, match=r"is being filled by another process"):
        fill(one)
