"""transformers' trainer that stops on SIGTERM, resumes exactly, and ends a run that trains nothing, for any host."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from pvit_ext.adapters import loraplus
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.precision import SLOW, computes_slowly
from pvit_ext.training import best, checkpointing, finished, lora_checkpoint
from pvit_ext.training.gradients import GradientWatch, NoGradientError
from pvit_ext.training.identity import Identity, identity
from pvit_ext.training.preemption import StopOnTerm, Stopped
from pvit_ext.training.sampler import (
    EpochSampler,
    ModalityGroupedSampler,
    groups_by_length,
    samples_in_full_steps,
)
from pvit_ext.training.tracking import Tracking


class RegionTrainer(Trainer):
    """What every run has; a host's own trainer may stand behind it in the bases.

    Attributes:
        newest: the newest complete checkpoint, which all processes know without asking a file system that may lag.
        identity: of this run, read before its first step: data and base may be elsewhere when it saves.
    """

    args: Any
    model: Any
    newest: Path | None = None
    identity: Identity

    def __init__(self, model: Any, args: Any, **keywords: Any) -> None:
        super().__init__(model=model, args=args, **compat.trainer_keywords(Trainer, keywords))
        self.stop = StopOnTerm()
        self.add_callback(self.stop)
        self.gradients = GradientWatch()
        if not self.is_fsdp_enabled:  # it puts parameters of its own in their place
            self.add_callback(self.gradients)
        self.tracking = Tracking(self)

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """Train; SIGTERM ends it with a checkpoint and :class:`~pvit_ext.training.preemption.Stopped`.

        Args:
            resume_from_checkpoint: True is the newest complete ``checkpoint-*``, if there is one. All else is as in
                transformers.
        """
        if resume_from_checkpoint or self.args.should_save:
            self.identity = identity(self)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_checkpoint()
        checkpointing.check_agreement(resume_from_checkpoint)
        self.newest = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self.args.bf16 and computes_slowly(self.args.device, torch.bfloat16):
            self.say(f"{SLOW}: --bf16 False is faster here")
        limit = self.args.save_total_limit
        self.tracking.open(goes_on=self.newest is not None)
        if self.newest is not None:
            self.add_callback(finished.EndIfFinished())
        with self.stop.listening():
            try:
                result = super().train(resume_from_checkpoint, *arguments, **keywords)
            except finished.Finished:
                result = self._end_finished()
        self.args.save_total_limit = limit
        if self.stop.agreed:
            self.say(f"stopped by SIGTERM after step {self.state.global_step}, saved: the same command continues")
            raise Stopped
        if self.state.best_model_checkpoint is not None:
            self.say(best.describe(self.state, best.Choice.of(self.args)))
        self._check_gradients()
        return result

    def _end_finished(self) -> TrainOutput:
        """End what began before the first step, as transformers does behind its last one."""
        state = self.state
        self.say(finished.describe(state.global_step, state.max_steps))
        state.log_history = finished.complete_history(state, Path(self.args.output_dir))
        self.control = self.callback_handler.on_train_end(self.args, state, self.control)
        self.is_in_train = False
        if self.newest is not None:
            self.gradients.untouched = checkpointing.untouched(self.newest)
        return TrainOutput(state.global_step, 0.0, {})

    def _check_gradients(self) -> None:
        """Say what got no gradient; an error unless that was allowed."""
        if not (problem := self.gradients.message()):
            return
        if not self.args.allow_no_gradient:
            if self.newest is not None:  # for the same command to say it again, where that trains nothing more
                self._alone(checkpointing.note_untouched, self.newest, self.gradients.untouched)
            advice = f"Saved after step {self.state.global_step}; to continue all the same: --allow_no_gradient True"
            raise NoGradientError(f"{problem}. {advice}")
        self.say(f"allowed: {problem}")

    def _newest_checkpoint(self) -> str | None:
        folder, skipped = checkpointing.newest_complete(Path(self.args.output_dir))
        for reason in skipped:
            self.say(f"skipped {reason}")
        if folder is None:
            self.say(f"no complete checkpoint in {self.args.output_dir}: starting anew")
            return None
        self.say(f"resuming from {folder}")
        for difference in checkpointing.check_same_run(folder, self.identity):
            self.say(f"losses will not be those of the uninterrupted run: {difference}")
        for difference in checkpointing.without_effect(folder, self.identity):
            self.say(f"without effect, since the run goes on with its optimizer and schedule: {difference}")
        return str(folder)

    def say(self, text: str) -> None:
        """Print a line once for all processes."""
        if self.is_world_process_zero():
            print(text, flush=True)

    def log(self, logs: dict[str, float], *args: Any, **keywords: Any) -> None:
        """Log as transformers does, with throughput.

        With one checkpoint to keep, transformers would delete the newest in favour of the best at the end; both stay.
        """
        if "train_runtime" in logs:
            self.args.save_total_limit = None
        super().log({**logs, **self.tracking.rates(logs)}, *args, **keywords)

    def create_optimizer(self, *arguments: Any) -> Any:
        """Make the host's own optimizer; ``--loraplus_lr_ratio`` puts the matrices B into groups of their own."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(*arguments)
        if new and (ratio := self.args.loraplus_lr_ratio) is not None:
            loraplus.give_rate(optimizer, self.model, ratio)
        return optimizer

    def _get_train_sampler(self, *_: Any) -> Any:
        order = self._order()
        limit = None if compat.rest_of_epoch_is_a_step(self) else self._full_steps(len(order))
        return EpochSampler(order, self.args.seed, epoch=lambda: int(self.state.epoch or 0), limit=limit)

    def _order(self) -> Any:
        """LLaVA's or transformers' sampler, with the dataset's lengths: transformers would read all images first."""
        args = self.args
        data: Any = self.train_dataset
        if getattr(args, "group_by_modality_length", False):
            return self._modality_order()
        if groups_by_length(args):
            return LengthGroupedSampler(args.train_batch_size * args.gradient_accumulation_steps, lengths=data.lengths)
        return super()._get_train_sampler()  # transformers 5 passes the dataset, LLaVA's override takes none

    def _modality_order(self) -> Any:
        """The sampler that keeps samples with images apart from those without."""
        args = self.args
        data: Any = self.train_dataset
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        return ModalityGroupedSampler(batch, data.modality_lengths)

    def _full_steps(self, samples: int) -> int | None:
        """Samples of an epoch that fill whole optimizer steps, if this transformers resumes nothing else exactly."""
        args, version = self.args, f"transformers {transformers.__version__}"
        batch, accumulation = args.train_batch_size * args.world_size, args.gradient_accumulation_steps
        filled = samples_in_full_steps(samples, batch, accumulation, args.dataloader_drop_last)
        advice = f"use transformers 5, or a --gradient_accumulation_steps (now {accumulation}) that divides an epoch"
        if filled is None:
            few = f"{samples} samples in batches of {batch} fill no step of {accumulation}"
            self.say(f"resuming this run will not be exact: with {version} {few}; {advice}")
        elif filled < samples:
            rest = f"the last {samples - filled} samples of each epoch's order, which fill no step, are left out"
            self.say(f"so that resuming is exact with {version}, {rest}; to keep them, {advice}")
        return filled

    def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> None:
        """Save as transformers does, whatever a host's trainer does, then write the marker.

        transformers would delete older checkpoints before this one is known to be whole.
        """
        extra = {"metrics": metrics} if "metrics" in inspect.signature(Trainer._save_checkpoint).parameters else {}
        save = functools.partial(Trainer._save_checkpoint, self, model, trial, **extra)
        folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        self.tracking.show(self.state, self.control)  # now, for the checkpoint to hold what was measured
        self.note_best(folder)
        if getattr(self.args, "save_only_model", False):
            save()  # without a marker: there is no optimizer to continue with
        elif folder != self.newest:  # else it is of this step: runs continue from the newest
            self._alone(checkpointing.discard, folder)
            limit, self.args.save_total_limit = self.args.save_total_limit, None
            save()
            self.args.save_total_limit = limit
            if self.args.lora_enable:
                lora_checkpoint.save_beside_adapter(self.model, str(folder), self.args.should_save)
            self.accelerator.wait_for_everyone()
            self._alone(self._mark_complete, folder)
            self.newest = folder
            kept = Path(self.state.best_model_checkpoint or "").name
            self._alone(checkpointing.keep_newest, folder.parent, limit, kept)

    def note_best(self, folder: Path) -> None:
        """Name the checkpoint of this step as the best one, if held-out records were measured and it is."""
        if (measures := best.measured(self.state)) is not None:
            best.note(self.state, best.Choice.of(self.args), measures, folder)

    def _mark_complete(self, folder: Path) -> None:
        checkpointing.mark_complete(folder, self.identity)

    def _alone(self, change: Any, *args: Any) -> None:
        """Let one rank change files while the others wait."""
        if self.args.should_save:
            change(*args)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a LoRA run's adapter, as transformers does, and what trains beside it; DeepSpeed does that by itself."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.lora_enable:
            lora_checkpoint.load_beside_adapter(self.model, resume_from_checkpoint)
