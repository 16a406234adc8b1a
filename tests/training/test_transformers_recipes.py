"""The recipes with ``--host transformers``, by the real launcher on two processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

import pvit_ext
from pvit_ext import Query, Region
from tests.hosts.transformers.inputs import OSPREY
from tests.hosts.transformers.zoo import ZOO
from tests.training.test_recipes import BIN, RECIPES, deepspeed, launch
from tests.training.test_transformers_host import write_records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[("llava", "zero3"), ("llava_next", "zero2")], ids="-".join)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment that a recipe reads its paths from; the last record has no image, and so one rank no region."""
    name, zero = request.param
    folder = tmp_path_factory.mktemp(name)
    model, data = folder / "model", write_records(folder / "data")
    # Under ZeRO-3 one without a spare row for <region>, which is added to an embedding in pieces.
    rows = {"rows": len(ZOO[name]()[1].tokenizer)} if zero == "zero3" else {}
    for part in ZOO[name](**rows):
        part.save_pretrained(model)
    paths = {
        "MODEL": model,
        "DATA": data,
        "IMAGES": data.parent,
        "REGION_ENCODER": "osprey",
        "REGION_WEIGHTS": "",
        "ZERO": zero,
    }
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    return {**clean, **own, **{key: str(value) for key, value in paths.items()}}


def test_both_stages_and_lora_on_two_processes(world: dict[str, str], tmp_path: Path) -> None:
    own = [
        "--host",
        "transformers",
        "--deepspeed",
        str(RECIPES / f"{world['ZERO']}.json"),
        "--per_device_train_batch_size",
        "1",
    ]
    options = ["--region_encoder_options", json.dumps(OSPREY)]
    two = deepspeed("--num_gpus", "2", "--no_python")
    one = tmp_path / "one"
    printed = launch(world, [*two, str(RECIPES / "stage1.sh")], *own, *options, OUTPUT=one)
    assert "without effect" in printed
    assert set(load_file(one / "region_modules.safetensors"))
    for recipe in ("stage2.sh", "stage2_lora.sh"):
        out = tmp_path / recipe
        launch(world, [*two, str(RECIPES / recipe)], *own, OUTPUT=out, STAGE1=one)
        tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(out), device="cpu")
        query = Query(Path(world["IMAGES"], "0.png"), "what is in <region> ?", [Region.box(5, 5, 40, 40)])
        assert isinstance(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=2)[0], str)
