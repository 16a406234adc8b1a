"""The runs of :mod:`tests.lora_methods`: one in this process, and the ranks that DeepSpeed's launcher starts."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pvit_ext.hosts.llava import compat
from tests.tiny import TINY_REGIONCLIP

compat.prepare_training()

from pvit_ext.adapters.tensors import adapter_parameters, adapter_state  # noqa: E402
from pvit_ext.distributed import cpu_copies  # noqa: E402
from pvit_ext.train import main  # noqa: E402
from pvit_ext.training.llava.host import LlavaHost  # noqa: E402

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass
class Outcome:
    """What a run left.

    Args:
        trained: parameters of the adapter.
        moved: how far the furthest of its tensors came.
        losses: of the steps.
        batch: all records, as the model takes them.
        logits: of them.
    """

    trained: int
    moved: float
    losses: list[float]
    batch: dict[str, Any]
    logits: torch.Tensor

    def logits_of(self, model: Any) -> torch.Tensor:
        """Of the same records, by another model."""
        if hasattr(model, "get_vision_tower"):
            model.get_vision_tower().half().float()  # as training has LLaVA's on a CPU
        return forward(model, self.batch)


def forward(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**copy.deepcopy(batch)).logits
    return found


def command_line(world: dict[str, Path], output: Path, own: dict[str, Any], batch: int = 4) -> list[str]:
    """The words of a run of four steps; LLaVA's own flags have no effect on the transformers host."""
    other = own.get("host") == "transformers"
    data = Path(world["stock data" if other else "data"])
    kinds = [kind for flag, kind in (("bits", "wide"), ("lora_bias", "biased")) if flag in own]
    checkpoint = "stock" if other else " ".join(kinds) or "checkpoint"
    values: dict[str, Any] = {
        "model_name_or_path": world[checkpoint], "version": "v1", "stage": "finetune", "data_path": data,
        "image_folder": data.parent, "image_aspect_ratio": "pad", "output_dir": output, "max_steps": 4,
        "region_encoder_options": json.dumps(TINY_REGIONCLIP), "per_device_train_batch_size": batch,
        "report_to": "none",
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "model_max_length": 512, "save_strategy": "no",
        "disable_tqdm": True, "logging_steps": 1, "region_jitter": 0, "mm_use_im_patch_token": False, "seed": 3,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "allow_no_gradient": True,
    }  # fmt: skip
    return [word for key, value in (values | own).items() for word in (f"--{key}", str(value))]


def train(words: list[str]) -> Outcome:
    """Run ``pvit_ext.train`` here."""
    with _watched() as seen:
        sys.argv = ["train", *words]
        main()
    trainer, before = seen["trainer"], seen["before"]
    after = cpu_copies(adapter_state(trainer.model))
    trained = sum(int(getattr(one, "ds_numel", one.numel())) for one in adapter_parameters(trainer.model))
    moved = max(float((after[name].float() - value.float()).abs().max()) for name, value in before.items())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    logits = forward(trainer.model, seen["batch"])
    if int(os.environ.get("RANK", "0")) == 0:
        Path(trainer.args.output_dir, "losses.json").write_text(json.dumps(losses))
    return Outcome(trained, moved, losses, seen["batch"], logits)


@contextlib.contextmanager
def _watched() -> Iterator[dict[str, Any]]:
    """The trainer of a run, its adapter before the first step, and a batch of all records."""
    seen: dict[str, Any] = {}

    def keep(host: Any, *given: Any, make: Any) -> Any:
        seen["trainer"] = trainer = make(host, *given)
        seen["before"] = cpu_copies(adapter_state(trainer.model))
        return trainer

    def collate(host: Any, trainer: Any, export: Any) -> None:
        items = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
        seen["batch"] = trainer.data_collator(items)
        export(host, trainer)

    with contextlib.ExitStack() as stack:
        for kind in _host_classes():
            changed = {
                "make_trainer": partialmethod(keep, make=kind.make_trainer),
                "export": partialmethod(collate, export=kind.export),
            }
            stack.enter_context(mock.patch.multiple(kind, **changed))
        yield seen


def _host_classes() -> list[Any]:
    """Of both hosts, where transformers is new enough for its own."""
    try:
        from pvit_ext.training.transformers.host import TransformersHost
    except ImportError:
        return [LlavaHost]
    return [LlavaHost, TransformersHost]


def resumed(outcome: Outcome, whole: Path, words: list[str]) -> str:
    """How a run that continues from the second step of another one ends, compared with that.

    Args:
        outcome: of the other.
        whole: its folder.
        words: the command line of the run that continues.
    """
    folder = Path(words[words.index("--output_dir") + 1]) / "checkpoint-2"
    if int(os.environ.get("RANK", "0")) == 0:
        shutil.copytree(whole / folder.name, folder)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    found = train(words)
    if found.losses != outcome.losses:
        return f"losses {found.losses}, not {outcome.losses}"
    return "bit-equal" if torch.equal(found.logits, outcome.logits) else "other logits"


def ranks(zero: str, world: dict[str, Path]) -> None:
    """On each rank: all trials of a list, one after the other; what came of each is written beside the list."""
    trials = json.loads((Path(world["runs"]) / f"{zero}.list.json").read_text())
    folder = Path(world["runs"]) / zero
    folder.mkdir(exist_ok=True)
    for name, given in trials.items():
        own = {**given, "deepspeed": RECIPES / f"{zero}.json"}
        print("trial", zero, name, flush=True)
        try:
            own |= {"save_strategy": "steps", "save_steps": 2}
            outcome = train(command_line(world, folder / f"{name}-run", own, 2))
            found: dict[str, Any] = {"losses": outcome.losses, "moved": outcome.moved}
            found["resumes"] = resumed(outcome, folder / f"{name}-run", command_line(world, folder / name, own, 2))
        except Exception as error:
            import traceback

            traceback.print_exc()
            text = " ".join(str(error).split())
            refused = "is refused" in text or text.startswith("--bits")
            found = {
                "error": f"refused: {text.partition(': ')[2]}" if refused else f"{type(error).__name__}: {text}"[:70]
            }
        if int(os.environ["RANK"]) == 0:
            (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    # the launcher puts its own flag first
    arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    ranks(arguments[0], {key: Path(value) for key, value in json.loads(arguments[1]).items()})
