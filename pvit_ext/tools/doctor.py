"""``pvit-ext doctor``: what is installed, which hosts can be used, and the real reason where one cannot."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

Report = dict[str, dict[str, str]]

OK = "ok"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "deepspeed",
    "llava-torch",
    "flash-attn",
    "wandb",
    "sentencepiece",
)
LLAVA_MODULES = (
    "llava.model.language_model.llava_llama",
    "llava.model.language_model.llava_mistral",
    "llava.model.language_model.llava_mpt",
    "llava",
)


def main(as_json: bool = False, checkpoint: str | None = None) -> int:
    """Print the report; 0 if LLaVA, or the host of a checkpoint that was named, can be used with regions, else 1."""
    report = collect(checkpoint)
    print(json.dumps(report, indent=2) if as_json else render(report))
    return 0 if usable(report) else 1


def collect(checkpoint: str | None = None) -> Report:
    """Sections of name -> text, where :data:`OK` says that a check passed.

    Args:
        checkpoint: folder or hub id, for a section about it.
    """
    llava = _llava()
    named = {} if checkpoint is None else {"checkpoint": _checkpoint(checkpoint)}
    return {
        "versions": _versions(),
        "cuda": _cuda(),
        "llava": llava,
        "patch points": _patch_points(set(llava.values()) == {OK}),
        "transformers": _transformers(),
        "attention": _attention(),
        "region encoders": _registered("pvit_ext.encoders.base:REGION_ENCODERS"),
        "vision towers": _registered("pvit_ext.hosts.llava.vision_tower:VISION_TOWERS"),
        **named,
    }


def usable(report: Report) -> bool:
    """Whether LLaVA's modules import and every patch point holds; of a checkpoint, whether its host can load it."""
    checkpoint = report.get("checkpoint", {"host": "llava"})
    if checkpoint.get("host") == "transformers":
        return report["transformers"]["models"] == OK
    return "host" in checkpoint and all(
        text == OK for section in ("llava", "patch points") for text in report[section].values()
    )


def render(report: Report) -> str:
    """The report as plain text, one line per entry."""
    lines = []
    for section, entries in report.items():
        lines.append(section)
        width = max(map(len, entries), default=0)
        lines += [f"  {name:<{width}}  {' '.join(text.split())}" for name, text in entries.items()]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in ("pvit-ext", *PACKAGES)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _outcome(check: Callable[[], object]) -> str:
    """OK, or the exception; an installed but broken package raises nearly anything (OSError, RuntimeError, ...)."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return OK


def _cuda() -> dict[str, str]:
    if (outcome := _outcome(partial(importlib.import_module, "torch"))) != OK:
        return {"torch": outcome}
    import torch

    if not torch.cuda.is_available():
        return {"device": "none", "torch built for": torch.version.cuda or "no CUDA"}
    names = {f"device {index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return names | {"torch built for": str(torch.version.cuda)}


def _llava() -> dict[str, str]:
    """The outcome of importing each module of LLaVA that counts.

    ``llava/model/__init__.py`` swallows every exception, and ``llava/__init__.py`` then fails with one that names no
    cause. So the inner modules are imported first, below stand-ins for packages whose ``__init__`` is not run.
    """
    if importlib.util.find_spec("llava") is None:
        return {"llava": "not installed: pip install --no-deps llava-torch==1.2.2.post1"}
    if _outcome(partial(importlib.import_module, "llava")) == OK:
        return {name: _outcome(partial(importlib.import_module, name)) for name in LLAVA_MODULES}
    with _packages_without_init("llava", "llava.model"):
        inner = {name: _outcome(partial(importlib.import_module, name)) for name in LLAVA_MODULES[:-1]}
    return inner | {"llava": _outcome(partial(importlib.import_module, "llava"))}


@contextmanager
def _packages_without_init(*names: str) -> Iterator[None]:
    """Let modules below these packages be imported while the packages' own code is not run; forget them afterwards."""
    top = names[0]
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == top}
    try:
        for name in names:
            sys.modules.pop(name, None)
            spec = importlib.util.find_spec(name)
            package = types.ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations or []) if spec else []
            sys.modules[name] = package
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == top]:
            del sys.modules[name]
        sys.modules.update(before)


def _patch_points(llava_imports: bool) -> dict[str, str]:
    from pvit_ext.hosts.llava.patching import PATCH_POINTS

    unknown = "not checked, LLaVA does not import"
    return {point.target: _outcome(point.check) if llava_imports else unknown for point in PATCH_POINTS}


def _transformers() -> dict[str, str]:
    """Whether models of transformers' own take regions here, and what some of their processors need."""
    from pvit_ext.hosts.transformers.entry import check_version

    models = _outcome(check_version)
    if models == OK:
        models = _outcome(partial(importlib.import_module, "pvit_ext.hosts.transformers.loading"))
    torchvision = _version("torchvision")
    needs = "; images are prepared by Pillow, and videos are refused" if torchvision == "not installed" else ""
    return {"models": models, "torchvision": torchvision + needs}


def _checkpoint(path: str) -> dict[str, str]:
    from pvit_ext.tools.examine import examine

    try:
        return examine(path)
    except Exception as error:
        return {path: f"{type(error).__name__}: {error}"}


def _attention() -> dict[str, str]:
    """Which attention a LLaVA language model gets by default here, read from a model of the installed transformers."""
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        with torch.device("meta"):
            default = str(LlamaForCausalLM(config).config._attn_implementation)
    except Exception as error:  # the sections above say what is broken
        return {"language model": f"unknown, {type(error).__name__}: {error}"}
    reasons = {
        "sdpa": f"torch {torch.__version__}: torch.nn.functional.scaled_dot_product_attention",
        "eager": f"transformers {_version('transformers')} does not use sdpa with torch {torch.__version__}",
    }
    chosen = f"{default} ({reasons.get(default, 'chosen by transformers')})"
    return {"language model": chosen, "region cross-attention": _region_attention(torch), **_flash(torch)}


def _region_attention(torch: Any) -> str:
    """What pvit_ext.ops.varlen_attention would run for half-precision tensors of 64 channels a head."""
    from pvit_ext.ops.varlen_attention import environment, select_backend

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choice = select_backend(device.type, torch.bfloat16, 64, environment(device))
    return f"{choice.backend} ({'; '.join((choice.kernel, *choice.reasons))})"


def _flash(torch: Any) -> dict[str, str]:
    missing = []
    if not torch.cuda.is_available():
        missing.append("no CUDA device")
    if (outcome := _outcome(partial(importlib.import_module, "flash_attn"))) != OK:
        missing.append(f"flash_attn: {outcome}")
    return {"flash_attention_2": "no (" + "; ".join(missing) + ")" if missing else "on request (attn_implementation)"}


def _registered(path: str) -> dict[str, str]:
    """What a registry knows by name, and whether each of its entry points imports.

    Args:
        path: ``module:name`` of the registry.
    """
    module, _, name = path.partition(":")
    try:
        registry = getattr(importlib.import_module(module), name)
        names = registry.names()
    except Exception as error:
        return {module: f"{type(error).__name__}: {error}"}
    points = {point.name: point for point in importlib.metadata.entry_points(group=registry.group)}
    found = {name: _outcome(points[name].load) if name in points else OK for name in names}
    return found or {"none": "registered by a package"}
