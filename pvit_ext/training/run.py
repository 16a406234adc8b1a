"""Both stages of PVIT, with any host: ``python -m pvit_ext.train --stage align ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import transformers

from pvit_ext.hosts.llava import cpu_launch
from pvit_ext.plugins import FLAG as PLUGIN
from pvit_ext.plugins import take_plugins
from pvit_ext.training.arguments import check_data, expand_command_line, refuse_replicas, with_config_file
from pvit_ext.training.contract import Arguments, TrainingHost
from pvit_ext.training.flag_pairs import check_pairs
from pvit_ext.training.host import FLAG, HOSTS, take_host
from pvit_ext.training.lion_data import check_lion, config_by_flags, prepare_data
from pvit_ext.training.lora_arguments import check_tokens_of
from pvit_ext.training.output import check_output
from pvit_ext.training.region_cache import use_caches
from pvit_ext.training.stages import freeze_for_stage, parameter_table

_DESCRIPTION = (
    f"Train region modules and their model. Further flags: {FLAG} NAME, the kind of model ({', '.join(HOSTS.names())}; "
    f"default by MODEL), --config FILE, flags from YAML, and {PLUGIN} MODULE, which is imported to register something."
)


def main(attn_implementation: str | None = None) -> None:
    """Train with the command line of this process, or continue where a run of the same ``--output_dir`` stopped.

    Args:
        attn_implementation: of the language model where ``--attn_implementation`` does not name one; default
            transformers' own choice.

    Raises:
        ValueError: for flags, data or a checkpoint that do not fit together, before the model is loaded where that
            can be known.
    """
    host, words = take_host(take_plugins(with_config_file(sys.argv[1:])))
    args = parse(host, words, attn_implementation)
    training = args.training
    check_output(training)
    with host.running():
        model, processor = host.load_model(args)
        freeze_for_stage(model, training.stage)
        data = host.load_data(args, model, processor)
        prepare_data(data["train_dataset"], args.data, training.stage)
        trainer = host.make_trainer(args, model, processor, data)
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
    check_data(args.data, args.training)
    check_lion(config_by_flags(args.model), args.data, args.training)
    return args


def parse_flags(host: TrainingHost, words: list[str], attn_implementation: str | None = None) -> Arguments:
    """Flags as the host's dataclasses, checked against each other; the data is not read."""
    # No abbreviations: several flags are read before the parser sees them, and would be missed.
    parser = transformers.HfArgumentParser(host.argument_classes, description=_DESCRIPTION, allow_abbrev=False)
    model, data, training = parser.parse_args_into_dataclasses(host.command_line(expand_command_line(words)))
    if model.model_name_or_path is None:  # LLaVA's own default is a model that it has no class for
        raise ValueError("--model_name_or_path is missing: a LLaVA, or a language model to make one of")
    check_pairs(model, training)
    check_tokens_of(training, model.model_name_or_path)
    return Arguments(model, data, training, model.attn_implementation or attn_implementation)


def run_as_program() -> None:
    """Run :func:`main` and end the process: with 143 where SIGTERM stopped the run."""
    from pvit_ext.training.preemption import EXIT_STATUS, Stopped

    try:
        main()
    except Stopped:
        cpu_launch.leave_cpu_group(EXIT_STATUS)
        raise
    cpu_launch.leave_cpu_group()
