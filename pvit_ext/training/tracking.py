"""What a run reports beside transformers' own losses and learning rates.

Any tracker gets throughput. wandb and tensorboard also get all of LLaVA's arguments, and a table of validation images
with their regions and the model's answers. ``--region_eval_data`` adds loss and accuracy on held-out records.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, is_tensorboard_available, is_wandb_available

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.records import Record, load_records
from pvit_ext.data.schema import images_of
from pvit_ext.data.tags.tags import TAGS_KEY
from pvit_ext.inference import ask
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER, number_regions
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import load_image, reading
from pvit_ext.tokens.query import Query
from pvit_ext.training.best import check_held_out, measured
from pvit_ext.training.held_out import HeldOut, answering, as_trained
from pvit_ext.training.throughput import Throughput
from pvit_ext.training.wandb_run import open_run

TABLE = "validation"
IDENTITY = "losses_depend_on"
"""Key in W&B's config of all that losses depend on; of files, their hashes."""
COLUMNS = ("picture", "question", "answer", "reference")
TRACKERS = {"wandb": is_wandb_available, "tensorboard": is_tensorboard_available}
logger = logging.getLogger(__name__)


def check_trackers(arguments: Any) -> None:
    """Fail before a model is loaded.

    Args:
        arguments: RegionTrainingArguments, ``report_to`` a list.

    Raises:
        ImportError: for a tracker that is not installed.
        ValueError: see :func:`~pvit_ext.training.best.check_held_out`.
    """
    for name, is_available in TRACKERS.items():
        if name in arguments.report_to and not is_available():
            raise ImportError(f'--report_to {name} needs a package: pip install "pvit-ext[{name}]"')
    check_held_out(arguments, bool(TRACKERS.keys() & set(arguments.report_to)))


@dataclass(frozen=True)
class Sample:
    """A validation record, ready to ask and to show."""

    query: Query
    drawing: Image.Image
    question: str
    reference: str

    @classmethod
    def of(cls, record: Record) -> Sample:
        """Ask a record's last question, with the turns before it as history.

        Raises:
            RegionError: naming the record, when its image or a region cannot be used.
        """
        path = Path(record.image_files[0])
        with reading(record.location):
            image = load_image(path)
        regions = [region.resolve(image.size, record.location) for region in record.regions]
        turns = [turn["value"] for turn in record.data["conversations"]]
        *asked, reference = number_regions([turn.replace(IMAGE_PLACEHOLDER, "").strip() for turn in turns])
        *earlier, question = turns[:-1]
        given = sum(turn.count(REGION_PLACEHOLDER) for turn in turns[:-1])  # the reference may point at more
        history = list(zip(earlier[::2], earlier[1::2], strict=True))
        task, tags = record.data.get(RECORD_KEY), record.data.get(TAGS_KEY)
        query = Query(path, question, regions[:given], history, task, tags)
        return cls(query, draw_regions(image, regions), "\n".join(asked), reference)


class Tracking(TrainerCallback):
    """Logs the arguments, and shows results at both ends, before every save and every ``region_eval_steps``.

    Results are the validation table, on trackers that have tables, and loss and accuracy on held-out records, on all.

    Args:
        trainer: before it trains; gets this callback, and its model hooks that count.

    Raises:
        RecordError, RegionError: for a validation record that cannot be shown.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.args = trainer, trainer.args
        self.samples: list[Sample] = []
        self.held_out: HeldOut | None = None
        self.shown_step = -1
        self.throughput = Throughput(trainer.model)
        if self.args.region_eval_data is not None:
            records = load_records(self.args.region_eval_data, trainer.train_dataset.data_args.image_folder)
            self.held_out = HeldOut(trainer, records)
            if TRACKERS.keys() & set(self.args.report_to):
                with_image = (record for record in records if len(images_of(record.data)) == 1)  # a row shows one
                self.samples = [Sample.of(record) for record in islice(with_image, self.args.region_eval_samples)]
        if "wandb" in self.args.report_to and trainer.is_world_process_zero():
            go_offline_without_key()
        trainer.add_callback(self)

    def open(self, goes_on: bool) -> None:
        """Open W&B's run before transformers does; ``goes_on`` says whether the run continues from a checkpoint."""
        if "wandb" in self.args.report_to and self.trainer.is_world_process_zero():
            open_run(self.args, goes_on)

    def rates(self, logs: dict[str, float]) -> dict[str, float]:
        """Throughput since the last call, for logs of training steps; every process has to call it.

        Without a tracker too: ``trainer_state.json`` keeps it, for plans of other runs.
        """
        if "loss" not in logs:
            return {}
        return self.throughput.rates(self.trainer.accelerator.gather, self.args.device)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log the arguments; transformers has opened its runs by now."""
        if not args.report_to:
            self.show(state, control)
            return
        values = asdict(self.trainer.train_dataset.data_args) | asdict(self.trainer.model.model_arguments)
        if "wandb" in args.report_to and state.is_world_process_zero:
            import wandb

            known = self.trainer.identity
            depends = {IDENTITY: {**known.run, **known.settings}}
            wandb.config.update(values | depends, allow_val_change=True)
        for writer in self._tensorboards():
            writer.add_text("llava_args", json.dumps(values, indent=2))
        self.show(state, control)  # what cannot be asked fails now, not at the first save

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.throughput.start_first()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show results every N steps, off the clock."""
        due = bool(args.region_eval_steps) and state.global_step % args.region_eval_steps == 0
        self.throughput.stop(wait=due or control.should_log or control.should_save)
        if due:
            self.show(state, control)
        self.throughput.start()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Leave the time since the step ended off the clock."""
        self.throughput.start()

    def on_log(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Show the end's results at the last logs: TensorBoard's writer is closed before our ``on_train_end``."""
        logs = keywords["logs"]
        if "eval_loss" in logs:  # ours; the clock still stands
            return
        if "train_runtime" in logs:
            self.show(state, control)
        self.throughput.start()

    def show(self, state: Any, control: Any) -> None:
        """Measure and show, once a step, unless the run is being stopped early."""
        stopped = control.should_training_stop and state.global_step < state.max_steps
        if self.held_out is None or stopped or state.global_step == self.shown_step:
            return
        self.shown_step = state.global_step
        if measured(state) is None:  # else a resumed run measured it before
            self._measure(self.held_out, state, control)
        if self.samples:
            self._show_table(state)

    def _measure(self, held_out: HeldOut, state: Any, control: Any) -> None:
        measures = held_out.measure()
        text = f"held-out records after step {state.global_step}: loss {measures['eval_loss']:.4f}"
        if held_out.samples:
            text += f", accuracy {100 * measures['eval_accuracy']:.1f} % of {len(held_out.samples)} questions"
        self.trainer.say(text)
        due = control.should_log
        self.trainer.log(measures)
        control.should_log = due  # the step's own losses

    def _show_table(self, state: Any) -> None:
        answers = self._answer()
        rows = [
            (sample.drawing, sample.question, answer, sample.reference)
            for sample, answer in zip(self.samples, answers, strict=True)
        ]
        if "wandb" in self.args.report_to and state.is_world_process_zero:
            _log_wandb(rows, state.global_step)
        for writer in self._tensorboards():
            _log_tensorboard(writer, rows, state.global_step)

    def _answer(self) -> list[str]:
        """Every process asks the same: with ZeRO-3 they gather each layer together, else they would wait anyway."""
        trainer, dataset = self.trainer, self.trainer.train_dataset
        model = getattr(trainer.model, "get_base_model", lambda: trainer.model)()  # peft's adapters stay in its layers
        queries = [as_trained(sample.query, model, dataset) for sample in self.samples]
        with answering(model), trainer.accelerator.autocast():
            processor, batch = dataset.data_args.image_processor, self.args.per_device_eval_batch_size
            return ask(model, dataset.tokenizer, processor, queries, batch_size=batch)

    def _tensorboards(self) -> Iterator[Any]:
        """transformers' open writer, on the process that has one: a second event file would hide the first."""
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                yield callback.tb_writer


def go_offline_without_key() -> None:
    """Keep wandb from asking for a login: without a key it writes the run to disk, unless told otherwise."""
    import wandb

    if wandb.setup().settings.mode not in (None, "online"):
        return
    quiet = "prompt" in inspect.signature(wandb.login).parameters  # new in 2026, with wandb.api deprecated
    if wandb.login(prompt=False, verify=False) if quiet else wandb.api.api_key:
        return
    wandb.setup(settings=wandb.Settings(mode="offline"))
    logger.warning(
        "wandb has no API key here (`wandb login`, or WANDB_API_KEY): this run is written to disk. "
        "Upload it later with `wandb sync`; wandb prints the folder at the end of the run."
    )


def _log_wandb(rows: Sequence[tuple[Any, ...]], step: int) -> None:
    import wandb

    table = wandb.Table(columns=list(COLUMNS))
    for drawing, *texts in rows:
        table.add_data(wandb.Image(drawing), *texts)
    wandb.log({TABLE: table, "train/global_step": step})


def _log_tensorboard(writer: Any, rows: Sequence[tuple[Any, ...]], step: int) -> None:
    lines = ["| picture | question | answer | reference |", "|---|---|---|---|"]
    for number, (drawing, *texts) in enumerate(rows, 1):
        writer.add_image(f"{TABLE}/{number}", np.asarray(drawing), step, dataformats="HWC")
        cells = [" ".join(text.replace("|", "\\|").split()) for text in texts]
        lines.append(f"| {TABLE}/{number} | {' | '.join(cells)} |")
    writer.add_text(TABLE, "\n".join(lines), step)
    writer.flush()
