"""What a GPU is asked first: answers, every kind of training, ZeRO, 4 bits, a cache, a server, and a plan's memory.

Each body takes a device. On the CPU it runs as a slow test, so that on a GPU only the device is new.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import Query
from pvit_ext.cli.parser import main
from pvit_ext.hosts.find import host_of
from tests.checkpoints import OPTIONS
from tests.hosts.device_runs import command_line, on_the_cpu, train
from tests.hosts.tiny_hosts import BOX, HAS_TRANSFORMERS_HOST, MIXED, OSPREY, WIDE, TinyHost, logits, save
from tests.hosts.transformers.zoo import CHAT
from tests.tiny import build_llava

ROOT = Path(__file__).parents[2]
CHOSEN = replace(OSPREY, box_embedding=True)
TEXTS = ["a dog", "a cat and a dog on the sofa"]
STAGES: dict[str, dict[str, Any]] = {
    "align": {"stage": "align"},
    "finetune": {"stage": "finetune", "learning_rate": 3e-3},
    "lora": {"stage": "finetune", "lora_enable": True, "lora_r": 4},
    "lion_mixed": {"stage": "lion_mixed", "region_lion_adapters": 4, "allow_no_gradient": True},
}
LLAVA = pytest.param("llava", marks=pytest.mark.skipif(find_spec("llava") is None, reason="llava is not installed"))
HOSTS = [LLAVA, *(["transformers"] if HAS_TRANSFORMERS_HOST else [])]
BOTH = ["llava/llama", *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])]
ON_DEVICES = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)


@ON_DEVICES
@pytest.mark.parametrize("host", BOTH, indirect=True)
@pytest.mark.parametrize("dtype", [None, "bfloat16"], ids=["default", "bfloat16"])
def test_answers_have_the_scores_of_the_cpu(
    host: TinyHost, dtype: str | None, device: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    parts = host.talking(CHOSEN)
    folder = save(host, parts, tmp_path / "model")
    for parameter in parts.model.region_module.region_projector.parameters():
        parameter.data.zero_()
    expected, _ = scores_and_answers(folder, "cpu", "float32")
    without, _ = scores_and_answers(save(host, parts, tmp_path / "without"), "cpu", "float32")
    found, answers = scores_and_answers(folder, device, dtype)
    difference, effect = (float((other - expected).abs().max()) for other in (found, without))
    record_property("difference, and that of no regions", f"{difference:.1e}, {effect:.1e}")
    assert difference < effect / 3  # a tiny model's scores hardly differ: 0.1 % without its regions
    assert len(answers) == len(MIXED)


def scores_and_answers(folder: Path, device: str, dtype: str | None) -> tuple[torch.Tensor, list[str]]:
    """Log-likelihoods (N, 2) of two texts to each query, and what the model answers."""
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device=device, dtype=dtype)
    assert next(model.parameters()).device.type == device
    parts = model, tokenizer, processor
    found = pvit_ext.score(*parts, MIXED, [TEXTS] * len(MIXED))
    return torch.tensor([[one.log_likelihood for one in own] for own in found]), pvit_ext.ask(
        *parts, MIXED, max_new_tokens=6
    )


@ON_DEVICES
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_in_bfloat16(
    stage: str, host: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"bf16": True, "max_steps": 3, "per_device_train_batch_size": 8, "logging_steps": 1, "seed": 3}
    values |= {"lr_scheduler_type": "constant", "region_jitter": 0, **STAGES[stage]}
    found = train(host, command_line(host, tmp_path, values), device, monkeypatch)
    assert found.device == device
    check_falling(found.losses, 3)
    assert all(math.isfinite(value) for value in found.moved.values())
    still = [name for name, value in found.moved.items() if not value]
    assert len(still) < (len(found.moved) / 2 if stage == "lion_mixed" else 1), still


def check_falling(losses: list[float], count: int) -> None:
    assert len(losses) == count
    assert all(math.isfinite(loss) for loss in losses), losses
    assert losses[-1] < losses[0], losses


@ON_DEVICES
def test_a_recipe_trains_under_zero2(device: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    host = "llava" if find_spec("llava") else "transformers"
    words = command_line(host, tmp_path, {})
    given = dict(zip(words[::2], words[1::2], strict=True))
    paths = {"MODEL": "model_name_or_path", "DATA": "data_path", "IMAGES": "image_folder", "OUTPUT": "output_dir"}
    variables = {name: given[f"--{flag}"] for name, flag in paths.items()}
    variables |= {"ENTRY": f"{sys.executable} -u -m pvit_ext.train", "REGION_WEIGHTS": "", "REGION_ENCODER": "osprey"}
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    clean.pop("DS_ACCELERATOR", None)
    if device == "cpu":
        clean["DS_ACCELERATOR"] = "cpu"
    flags = "--stage finetune --max_steps 4 --per_device_train_batch_size 8 --learning_rate 3e-3 --warmup_ratio 0"
    flags += f" --lr_scheduler_type constant --dataloader_num_workers 1 --save_strategy no --host {host}"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "1", "--master_port", port]
    command += [str(ROOT / "recipes" / "stage1.sh"), "--region_encoder_options", '{"layers": [-2]}', *flags.split()]
    command += ["--deepspeed", str(ROOT / "recipes" / "zero2.json")]
    done = subprocess.run(
        command, env=clean | variables, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-6000:]
    check_falling([float(loss) for loss in re.findall(r"'loss': '?([\d.einfa+-]+)", printed)], 4)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@ON_DEVICES
@pytest.mark.skipif(find_spec("llava") is None, reason="llava is not installed")
def test_four_bits_answer(device: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    pytest.importorskip("bitsandbytes")
    if device == "cpu":
        pytest.importorskip("transformers", minversion="5.0", reason="older ones quantise on CUDA alone")
    from pvit_ext.adapters.quantization import is_quantized

    folder = build_llava(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    given: dict[str, Any] = {"region_config": CHOSEN, "device": device}
    found, query = list[torch.Tensor](), Query(WIDE, "what is in <region> ?", [BOX])
    for bits in ({"load_4bit": True}, {}):
        torch.manual_seed(1)
        tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), **given, **bits)
        assert any(is_quantized(one) for one in model.parameters()) == bool(bits)
        assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=4)) == 1
        found.append(logits_of(model, tokenizer, processor, query))
    for parameter in model.get_model().layers.parameters():
        parameter.data.zero_()
    found.append(logits_of(model, tokenizer, processor, query))
    in_bits, plain, without = found
    difference, effect = (float((other - plain).norm()) for other in (in_bits, without))
    record_property("difference, and that of no blocks", f"{difference:.1e}, {effect:.1e}")
    assert difference < effect / 3


def logits_of(model: Any, tokenizer: Any, processor: Any, query: Query) -> torch.Tensor:
    """Logits (1, L, V) of a query's prompt, on the CPU."""
    chat = host_of(model).chat(model, tokenizer, processor, None, None)
    batch: dict[str, Any] = chat.batch([query], [chat.prompt(query, "query")])
    batch["input_ids"] = batch.pop("inputs", batch.get("input_ids"))
    return logits(model, {name: value for name, value in batch.items() if name != "labels"}).float().cpu()


@ON_DEVICES
def test_a_cache_is_filled(device: str, regionclip_weights: Path, tmp_path: Path) -> None:
    """With the same maps as on the CPU."""
    from pvit_ext.data.cache.store import FeatureCache
    from tests.samples import write_training_data

    data, found = write_training_data(tmp_path / "data"), []
    words = ["data", "cache", str(data), "--image-folder", str(data.parent), "--dtype", "float32"]
    words += ["--weights", str(regionclip_weights), "--encoder-options", json.dumps(OPTIONS)]
    for one in ("cpu", device):
        out = tmp_path / f"{one}-{len(found)}"
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            assert main([*words, "--out", str(out), "--device", one]) == 0
        FeatureCache(out)
        raw = b"".join(path.read_bytes() for path in sorted(out.glob("*.bin")))
        found.append(torch.frombuffer(bytearray(raw), dtype=torch.float32))
    assert found[0].numel() > 1000
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@ON_DEVICES
@pytest.mark.parametrize("host", BOTH[-1:], indirect=True)
def test_a_request_is_served(host: TinyHost, device: str, tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn", "pydantic", "prometheus_client", "multipart"):
        pytest.importorskip(package)
    from tests.serving.load import post, sent
    from tests.serving.process import process
    from tests.serving.served import FINE

    folder = save(host, host.talking(OSPREY), tmp_path / "model")
    with process(folder, "--served-name", "tiny", device=device) as (_, address):
        connection = HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]), timeout=120)
        assert sent(connection, "GET", "/v1/models")["data"][0]["id"] == "tiny"
        answer = post(connection, json.dumps(FINE).encode())
        connection.close()
    assert answer["usage"]["completion_tokens"] > 0


@ON_DEVICES
@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="this transformers has no host")
def test_a_plan_is_what_a_run_holds(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """On a GPU the allocator's own peak, of a model beside which cuBLAS's 32 MiB are little."""
    from pvit_ext.training.plan.plan import Question, make_plan
    from tests.training.held_memory import measure
    from tests.training.test_transformers_host import flags, save_stock, write_records

    if device == "cuda":
        from tests.benchmarks.bench_step import stock

        model, processor = stock(1024, 4)
        processor.chat_template = CHAT.replace("IMAGE", "<image> ")
        for part in (model, processor):
            part.save_pretrained(tmp_path / "stock")
        del model, part
    else:
        save_stock("llava", tmp_path / "stock")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    given = {"stage": "finetune", "bf16": True, "max_steps": 2, "per_device_train_batch_size": 2}
    given |= {"optim": "adamw_torch_fused", "region_encoder_options": '{"layers": [-2]}'}
    words = flags(tmp_path / "stock", write_records(tmp_path / "data"), tmp_path / "out", **given)
    before = start_counting() if device == "cuda" else 0
    found = measure([*words, *on_the_cpu(device)])
    parts = "weights", "gradients", "optimizer", "activations"
    held = torch.cuda.max_memory_allocated() - before if device == "cuda" else sum(found[name] for name in parts)
    planned = make_plan(words, Question(1, length=found["length"])).peak
    record_property("planned", f"{planned / 2**20:.1f} MiB")
    record_property("held", f"{held / 2**20:.1f} MiB")
    assert 0.75 < held / planned < 1.25


def start_counting() -> int:
    """Bytes that are allocated on the GPU as a peak is begun."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
