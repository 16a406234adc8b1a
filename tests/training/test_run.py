"""The training entry: it is ours from the command line to the result, and asks a host for the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from pvit_ext.hosts.llava import compat
from tests.samples import write_training_data

compat.prepare_training()

from llava import conversation  # noqa: E402
from llava.train import llava_trainer  # noqa: E402
from llava.train import train as llava_train  # noqa: E402

from pvit_ext.hosts import precision  # noqa: E402
from pvit_ext.training.host import HOSTS, take_host  # noqa: E402
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST  # noqa: E402
from tests.training.runs import LlavaHost, flags, main, run  # noqa: E402


def test_nothing_of_llavas_train_runs_and_its_names_come_back(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ModelArguments", "LLaVATrainer", "make_supervised_data_module", "find_all_linear_names", "preprocess_mpt")
    stock = {name: getattr(llava_train, name) for name in (*names, "tokenizer_image_token")}
    parser, template = transformers.HfArgumentParser, conversation.default_conversation
    during: dict[str, Any] = {}
    load_data = LlavaHost.load_data

    def look(host: LlavaHost, *arguments: Any) -> Any:
        during.update({name: getattr(llava_train, name) for name in stock}, parser=transformers.HfArgumentParser)
        during["template"] = conversation.default_conversation
        return load_data(host, *arguments)

    monkeypatch.setattr(LlavaHost, "load_data", look)
    monkeypatch.setattr(llava_train, "train", lambda *_, **__: pytest.fail("LLaVA's train() was called"))
    data = write_training_data(tmp_path / "data")
    own = {"stage": "align", "max_steps": 1, "version": "llava_v1"}
    monkeypatch.setattr(sys, "argv", ["train", *flags(llava_checkpoint, data, tmp_path / "out", **own)])
    main()
    assert (tmp_path / "out" / "region_modules.safetensors").is_file()
    assert during["parser"] is parser
    changed = {name for name in stock if during[name] is not stock[name]}
    assert changed == {"preprocess_mpt", "tokenizer_image_token"}
    assert during["template"] is conversation.conv_templates["llava_v1"] is not template
    assert conversation.default_conversation is template
    assert all(getattr(llava_train, name) is value for name, value in stock.items())


def test_names_come_back_when_a_run_fails(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, template = llava_train.tokenizer_image_token, conversation.default_conversation
    monkeypatch.setattr(LlavaHost, "make_trainer", lambda *_: 1 // 0)
    data = write_training_data(tmp_path / "data")
    monkeypatch.setattr(sys, "argv", ["train", *flags(llava_checkpoint, data, tmp_path / "out", version="llava_v1")])
    with pytest.raises(ZeroDivisionError):
        main()
    assert (llava_train.tokenizer_image_token, conversation.default_conversation) == (stock, template)


def test_a_host_is_asked_for_everything_in_order(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Recorder(LlavaHost):
        def __getattribute__(self, name: str) -> Any:
            calls.append(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(HOSTS, "recorder", Recorder)
    data = write_training_data(tmp_path / "data")
    config = tmp_path / "run.yaml"
    config.write_text("host: recorder\n")
    words = ["--config", str(config), *flags(llava_checkpoint, data, tmp_path / "out", stage="align", max_steps=1)]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    main()
    expected = ["argument_classes", "command_line", "running", "load_model", "load_data", "make_trainer", "parts"]
    assert calls == [*expected, "export"]


def test_the_host_is_named_once_and_known() -> None:
    host, rest = take_host(["--stage", "align", "--host=llava", "--bf16", "True"])
    assert isinstance(host, LlavaHost)
    assert rest == ["--stage", "align", "--bf16", "True"]
    with pytest.raises(ValueError, match=r"unknown host 'blip'; known: llava"):
        take_host(["--host", "blip"])


def test_an_old_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.17.0")
    with pytest.raises(ValueError, match=r"need transformers 5\.18 or newer, this is 5\.17\.0"):
        take_host(["--host", "transformers"])


def test_help_names_what_is_no_field_of_the_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = " ".join(capsys.readouterr().out.split())
    assert "--host NAME, the kind of model (llava" in text
    assert all(
        word in text for word in ("--config FILE", "--plugin MODULE", "--traceback", "--stage", "--model_name_or_path")
    )


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("bits", 4, "--bits 4|4 bits needs bitsandbytes"),
        ("vision_tower", "", "--vision_tower"),
        ("label_smoothing_factor", 0.1, r"--label_smoothing_factor 0\.1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_model_is_loaded(
    flag: str, value: Any, said: str, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    config = transformers.LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.save_pretrained(plain)
    data = write_training_data(tmp_path / "data")
    words = flags(llava_checkpoint, data, tmp_path / "out", model_name_or_path=plain, **{flag: value})
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(ValueError, match=said):
        main()


def test_llavas_trainer_is_behind_ours() -> None:
    from pvit_ext.training.llava.trainer import LlavaRegionTrainer
    from pvit_ext.training.trainer import RegionTrainer

    order = [kind for kind in LlavaRegionTrainer.__mro__ if issubclass(kind, transformers.Trainer)]
    assert order == [LlavaRegionTrainer, RegionTrainer, llava_trainer.LLaVATrainer, transformers.Trainer]


@pytest.mark.parametrize(
    ("model_type", "host"),
    [
        pytest.param(
            "llava",
            "TransformersHost",
            marks=pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="the host needs a newer transformers"),
        ),
        ("llava_llama", "LlavaHost"),
    ],
)
def test_the_checkpoint_names_its_host(tmp_path: Path, model_type: str, host: str) -> None:
    architectures = {"llava": "LlavaForConditionalGeneration", "llava_llama": "LlavaLlamaForCausalLM"}
    values = {"model_type": model_type, "architectures": [architectures[model_type]]}
    if model_type == "llava":
        values |= {"vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert type(take_host(["--model_name_or_path", str(tmp_path)])[0]).__name__ == host
    assert type(take_host(["--model_name_or_path", str(tmp_path), "--host", "llava"])[0]).__name__ == "LlavaHost"


@pytest.mark.parametrize(("bf16", "has", "times"), [(True, False, 1), (True, True, 0), (False, False, 0)])
def test_bfloat16_on_a_cpu_without_it_is_said_to_be_slow(
    bf16: bool,
    has: bool,
    times: int,
    llava_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    data = write_training_data(tmp_path / "data")
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out", stage="align", max_steps=1, bf16=bf16))
    assert capsys.readouterr().out.count("has no instructions for bfloat16") == times
