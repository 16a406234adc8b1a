"""The doctor reports what is there, and the real reason where LLaVA cannot be imported."""

import importlib
import importlib.metadata
import json
import sys

import pytest

from pvit_ext import cli
from pvit_ext.tools import doctor

LLAMA = "llava.model.language_model.llava_llama"


@pytest.fixture
def without_llava(monkeypatch):
    """LLaVA's modules are forgotten for the test and come back, the same objects, after it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        del sys.modules[name]


@pytest.fixture
def broken_llava(without_llava, tmp_path, monkeypatch):
    """A LLaVA whose Llama module fails and whose packages swallow that, as the real ones do."""
    inner = tmp_path / "llava" / "model" / "language_model"
    inner.mkdir(parents=True)
    (tmp_path / "llava" / "__init__.py").write_text("from .model import LlavaLlamaForCausalLM\n")
    swallow = "try:\n    from .language_model.llava_llama import LlavaLlamaForCausalLM\nexcept:\n    pass\n"
    (tmp_path / "llava" / "model" / "__init__.py").write_text(swallow)
    (tmp_path / "llava" / "model" / "language_model" / "llava_llama.py").write_text("raise OSError('libfoo.so: no')\n")
    (inner / "llava_mistral.py").write_text("from llava.model import language_model\n")
    (inner / "llava_mpt.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_healthy_installation(capsys):
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for section in ("versions", "cuda", "llava", "patch points", "attention", "region encoders", "vision towers"):
        assert f"\n{section}\n" in "\n" + report
    lines = [line.split() for line in report.splitlines()]
    for package in ("torch", "transformers", "llava-torch"):
        assert [package, importlib.metadata.version(package)] in lines
    assert [LLAMA, "ok"] in lines
    assert ["llava.model.builder:LlavaLlamaForCausalLM", "ok"] in lines
    assert ["regionclip", "ok"] in lines


def test_json_holds_the_same(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["llava"] == dict.fromkeys(doctor.LLAVA_MODULES, "ok")
    assert report["versions"]["python"].split(".")[0] == "3"
    assert report == doctor.collect()


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    assert doctor._versions()["no-such-package"] == "not installed"


@pytest.mark.usefixtures("broken_llava")
def test_the_real_reason_is_shown_where_llava_swallows_it(capsys):
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["llava"][LLAMA] == "OSError: libfoo.so: no"
    assert report["llava"]["llava.model.language_model.llava_mistral"] == "ok"
    assert "a_module_that_is_missing" in report["llava"]["llava.model.language_model.llava_mpt"]
    assert "cannot import name 'LlavaLlamaForCausalLM'" in report["llava"]["llava"]
    assert set(report["patch points"].values()) == {"not checked, LLaVA does not import"}
    assert "llava" not in sys.modules


@pytest.mark.usefixtures("without_llava")
def test_llava_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "llava", None)
    assert cli.main(["doctor"]) == 1
    assert "not installed: pip install --no-deps llava-torch" in capsys.readouterr().out


def test_a_patch_point_that_does_not_hold_makes_llava_unusable(monkeypatch, capsys):
    monkeypatch.delattr(importlib.import_module("llava.model.builder"), "LlavaMptForCausalLM")
    assert cli.main(["doctor"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "builder:LlavaMptForCausalLM " in line]
    assert "PatchError" in line


def test_attention_is_what_the_language_model_gets():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    default = LlamaForCausalLM(config).config._attn_implementation
    assert doctor._attention()["language model"].split()[0] == default


def test_flash_attention_needs_cuda_and_the_package(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert "no (no CUDA device; flash_attn: " in doctor._attention()["flash_attention_2"]
    assert doctor._attention()["region cross-attention"].startswith("sdpa (")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setitem(sys.modules, "flash_attn", importlib.import_module("json"))
    assert "compute capability 7.0" in doctor._attention()["region cross-attention"]
    assert doctor._attention()["flash_attention_2"] == "on request (attn_implementation)"


@pytest.mark.parametrize(
    ("version", "goes"), [("4.57.6", False), ("5.17.0", False), ("5.18.0.dev0", True), ("6.0", True)]
)
def test_a_transformers_too_old_for_its_own_models(monkeypatch, version, goes):
    monkeypatch.setattr("transformers.__version__", version)
    assert ("5.18 or newer, this is" in doctor._transformers()["models"]) is not goes
