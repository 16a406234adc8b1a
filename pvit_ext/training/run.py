"""Both stages of PVIT, with any host: ``python -m pvit_ext.train --stage align ...``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import transformers

from pvit_ext.hosts.llava import cpu_launch
from pvit_ext.hosts.user_errors import is_user_error
from pvit_ext.plugins import FLAG as PLUGIN
from pvit_ext.plugins import take_plugins
from pvit_ext.training.arguments import expand_command_line, refuse_replicas, with_config_file
from pvit_ext.training.contract import Arguments, TrainingHost
from pvit_ext.training.flag_pairs import check_pairs
from pvit_ext.training.flag_parser import FlagParser
from pvit_ext.training.host import FLAG, HOSTS, take_host
from pvit_ext.training.lion_data import check_lion, config_by_flags, prepare_data
from pvit_ext.training.lora_arguments import check_tokens_of
from pvit_ext.training.output import check_output
from pvit_ext.training.region_cache import use_caches
from pvit_ext.training.run_files import check_files
from pvit_ext.training.stages import freeze_for_stage, parameter_table

TRACEBACK = "--traceback"
GRACE = 10.0
"""Seconds for which other ranks leave it to the first to say what is wrong; launchers look every 5 s at most."""
_DESCRIPTION = (
    f"Train region modules and their model. Further flags: {FLAG} NAME, the kind of model ({', '.join(HOSTS.names())}; "
    f"default by MODEL), --config FILE, flags from YAML, {PLUGIN} MODULE, which is imported to register something, and "
    f"{TRACEBACK}, to see where an error of the flags or the data comes from."
)


class Began(transformers.TrainerCallback):
    """Notes that a run has begun: errors before are of its flags, data and checkpoints."""

    value = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Before the first step."""
        self.value = True


def main(attn_implementation: str | None = None, began: Began | None = None) -> None:
    """Train with the command line of this process, or continue where a run of the same ``--output_dir`` stopped.

    Args:
        attn_implementation: of the language model where ``--attn_implementation`` does not name one; default
            transformers' own choice.
        began: told when the first step is near.

    Raises:
        ValueError: for flags, data or a checkpoint that do not fit together, before the model is loaded where that
            can be known.
    """
    host, words = take_host(take_plugins(with_config_file(sys.argv[1:])))
    args = parse(host, words, attn_implementation)
    training = args.training
    check_output(training.output_dir, training.stage, training.lora_enable)
    with host.running():
        model, processor = host.load_model(args)
        freeze_for_stage(model, training.stage)
        data = host.load_data(args, model, processor)
        prepare_data(data["train_dataset"], args.data, training.stage)
        trainer = host.make_trainer(args, model, processor, data)
        if began is not None:
            trainer.add_callback(began)
        for text in use_caches(host, args, model, processor, data["train_dataset"]):
            trainer.say(text)
        trainer.say(parameter_table(model, host.parts(model)))
        trainer.train(resume_from_checkpoint=any(Path(training.output_dir).glob("checkpoint-*")) or None)
        trainer.save_state()
        model.config.use_cache = True
        host.export(trainer)


def parse(host: TrainingHost, words: list[str], attn_implementation: str | None = None) -> Arguments:
    """Flags as the host's dataclasses, checked against each other and the data."""
    args = parse_flags(host, words, attn_implementation)
    refuse_replicas(args.training)
    check_files(args.data, args.training)
    check_lion(config_by_flags(args.model), args.data, args.training)
    return args


def parse_flags(host: TrainingHost, words: list[str], attn_implementation: str | None = None) -> Arguments:
    """Flags as the host's dataclasses, checked against each other; the data is not read."""
    # No abbreviations: several flags are read before the parser sees them, and would be missed.
    parser = _Parser(host.argument_classes, description=_DESCRIPTION, allow_abbrev=False)
    model, data, training = parser.parse_args_into_dataclasses(host.command_line(expand_command_line(words)))
    model.check_model()
    check_pairs(model, training)
    check_tokens_of(training, model.model_name_or_path)
    return Arguments(model, data, training, model.attn_implementation or attn_implementation)


class _Parser(FlagParser):
    def error(self, message: str) -> NoReturn:
        """argparse would print the usage, some hundred flags, on each rank."""
        raise ValueError(message)


def run_as_program() -> None:
    """Run :func:`main` and end the process: with 143 where SIGTERM stopped the run, with 2 for an error of the user's.

    The latter is one line, unless ``--traceback`` is given.
    """
    from pvit_ext.training.preemption import EXIT_STATUS, Stopped

    shown, began = TRACEBACK in sys.argv, Began()
    sys.argv[1:] = [word for word in sys.argv[1:] if word != TRACEBACK]
    try:
        main(began=began)
    except Stopped:
        cpu_launch.leave_cpu_group(EXIT_STATUS)
        raise
    except Exception as error:
        if shown or began.value or not is_user_error(error):
            raise
        _end_for(error)
    cpu_launch.leave_cpu_group()


def _end_for(error: Exception) -> NoReturn:
    """Say what is wrong, once for all ranks, and end with 2.

    A rank cannot know whether the others met the error as well. The first one says it and ends, upon which a launcher
    ends the rest; a rank that is still there then says it too.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(GRACE)
    print(f"pvit-ext: error{f' (rank {rank})' if rank else ''}: {error}", file=sys.stderr, flush=True)
    cpu_launch.leave_cpu_group(2, wait=False)
    raise SystemExit(2)
