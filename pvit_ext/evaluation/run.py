"""One evaluation, from a task's data to ``metrics.json``, ``metrics.md`` and ``report.html``."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.config import RECORD_KEY, RegionConfig
from pvit_ext.evaluation import earlier, identity
from pvit_ext.evaluation.answering import ModelOptions, answer_all, check_marks
from pvit_ext.evaluation.arms import MARKS, REGIONS, TOKENS, WORDS, Arm, check_arm
from pvit_ext.evaluation.judge.hearing import JudgeOptions, judged_results
from pvit_ext.evaluation.judge.task import JudgedTask, check_judge
from pvit_ext.evaluation.lion_fields import check_lion
from pvit_ext.evaluation.page import write_page
from pvit_ext.evaluation.predictions import Predictions
from pvit_ext.evaluation.sample import Prediction, Result, Sample
from pvit_ext.evaluation.stored import stored_answers, with_areas
from pvit_ext.evaluation.summary import summary, with_scores, write_json, write_markdown
from pvit_ext.evaluation.task import TASKS, Task, TaskOptions
from pvit_ext.files import sha256_file
from pvit_ext.hosts.loading import check_conv_version, dtype_of_load
from pvit_ext.inference import decoding
from pvit_ext.inference.ranks import Ranks, ranks

if TYPE_CHECKING:
    from pvit_ext.evaluation.calls import EndpointOptions


@dataclass(frozen=True)
class Settings:
    """What an evaluation is to do.

    Args:
        task: registered name.
        data: file or folder of the task.
        image_folder: that its images lie in.
        out: folder of the answers and results.
        model: that answers; one of this, ``endpoint`` and ``answers`` is given.
        endpoint: of an external model that answers.
        answers: file of stored answers.
        judge: of the answers, for tasks that have one.
        arm: by name; None: that of the checkpoint, or ``marks`` for an external model.
        words: what stands for a region in the arm ``image``.
        settings: of the task.
        limit: so many samples, chosen by the seed; None: all.
        seed: of that choice, and of the cases that the page shows.
    """

    task: str
    data: Path
    image_folder: str
    out: Path
    model: ModelOptions | None = None
    endpoint: EndpointOptions | None = None
    answers: Path | None = None
    judge: JudgeOptions | None = None
    arm: str | None = None
    words: str = WORDS
    settings: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Asked:
    """A task with the samples that are asked, and what all depends on."""

    task: Task
    samples: Sequence[Sample]
    data_sha256: str
    every: Sequence[Sample]


def evaluate(settings: Settings) -> dict[str, Any] | None:
    """Run it; every process of a launcher calls this.

    Returns:
        what was measured, on rank 0; None on the others.

    Raises:
        ValueError: for what cannot be run as it was asked for.
    """
    asked = _asked(settings)
    with ranks() as here:
        if settings.answers is not None:
            found, run = _of_answers(settings, asked)
        elif settings.endpoint is not None:
            found, run = _of_endpoint(settings, asked, here)
        else:
            found, run = _of_model(settings, asked, here)
        if here.rank:
            return None
        return _write(settings, asked, found, run)


def _asked(settings: Settings) -> _Asked:
    kind = TASKS.require(settings.task)
    try:
        task = kind(TaskOptions(settings.data, settings.image_folder, settings.settings))
        check_judge(settings.task, settings.judge is not None)
        if settings.answers is None:
            task.check_asking()
        every = list(task.load())
    except OSError as error:
        if not str(error.filename or "").startswith(str(settings.data)):
            raise
        raise ValueError(f"--data {settings.data} is not what {settings.task} takes ({error}): {kind.about}") from error
    if not every:
        raise ValueError(f"{settings.data} holds no sample of {settings.task}: {task.left_out or 'it is empty'}")
    if len({sample.id for sample in every}) != len(every):
        raise ValueError(f"two samples of {settings.task} have one id: its load() must give each its own")
    indices: Sequence[int] = range(len(every))
    if settings.limit is not None and settings.limit < len(every):
        indices = sorted(random.Random(settings.seed).sample(indices, settings.limit))
    asked = _Asked(task, [every[index] for index in indices], identity.data_hash(task), every)
    if settings.arm is not None and not _has_regions(asked):
        raise ValueError(
            f"--arm {settings.arm} cannot apply: no question of {settings.task} has a region: leave it out"
        )
    return asked


def _of_model(settings: Settings, asked: _Asked, here: Ranks) -> tuple[dict[str, Prediction], dict[str, Any]]:
    """The checkpoint's answers, asked for where they are not there yet; and what they were made with."""
    assert settings.model is not None
    model = settings.model
    config = identity.stored_region_config(model.path, model.base)
    name, remark = _arm(settings, asked, config)
    arm = Arm(name, config, settings.words)
    check_lion(asked.samples, config, name in TOKENS)
    check_marks(asked.task, asked.samples, arm, config)
    check_conv_version(model.path, model.base, model.conv_version)
    earlier.check_model(settings.out)
    shown_as = arm.values() | {"conv_version": model.conv_version, "system": model.system}
    depends = {
        **_questions(settings, asked),
        "model": identity.checkpoint_mark(model.path, model.base),
        "arm": name,
        "prompt sha256": identity.prompt_hash(asked.task, asked.every, shown_as),
        "max new tokens": model.max_new_tokens,
        "dtype": str(dtype_of_load(model.path, model.base, model.device, model.dtype)).removeprefix("torch."),
    }
    own = decoding.own_options(model.path, model.base)
    depends |= decoding.own_mark(own)
    with Predictions(settings.out, depends, here.rank) as predictions:
        if here.rank == 0:
            predictions.gather()
        here.wait()
        found = predictions.read()
        here.wait()  # before any rank writes, all have read the same
        missing = [sample for sample in asked.samples if sample.id not in found]
        answer_all(asked.task, missing, arm, model, here, predictions.add)
        here.wait()
        if here.rank == 0:
            predictions.gather()
            found = predictions.read()
    run = {
        "model": model.path,
        "model files": depends["model"],
        "arm": f"{name}: {arm.about}",
        "trained for this arm": remark or "yes",
        "region modules": None if config is None else asdict(config),
        "prompt sha256": depends["prompt sha256"],
        "base": model.base,
        "template": model.conv_version or "the checkpoint's own",
        "system prompt": "the template's own" if model.system is None else model.system,
        "max new tokens": model.max_new_tokens,
        "decoding": decoding.described(own),
        "dtype": depends["dtype"],
    }
    return found, run


def _questions(settings: Settings, asked: _Asked) -> dict[str, Any]:
    """What is asked, whoever answers."""
    return {
        "task": f"{settings.task} {asked.task.version}",
        "task settings": asked.task.asking(),
        "data sha256": asked.data_sha256,
    }


def _named(settings: Settings, asked: _Asked) -> dict[str, Any]:
    """The same, as ``metrics.json`` has it."""
    return {
        "task": settings.task,
        "data sha256": asked.data_sha256,
        earlier.SETTINGS: asked.task.asking(),
    }


def _arm(settings: Settings, asked: _Asked, config: RegionConfig | None) -> tuple[str, str | None]:
    """The arm, and what is to be said about it; questions without regions are asked as they are."""
    assert settings.model is not None
    if not _has_regions(asked):
        return REGIONS, "the questions have no regions"
    return check_arm(settings.arm, config, settings.model.path)


def _has_regions(asked: _Asked) -> bool:
    return any(sample.specs for sample in asked.every)


def _of_endpoint(settings: Settings, asked: _Asked, here: Ranks) -> tuple[dict[str, Prediction], dict[str, Any]]:
    """An external model's answers: its ledger, keyed by the hash of all that is sent, is what a run goes on from."""
    from pvit_ext.evaluation.endpoint import answer_by_endpoint

    assert settings.endpoint is not None
    options, name = settings.endpoint, settings.arm or MARKS
    if name in TOKENS:
        raise ValueError(f"an external model takes no region tokens: show regions by --arm {MARKS}, text or image")
    if here.world > 1:
        raise ValueError("an endpoint is asked by one process: start without a launcher, and set --concurrency")
    arm = Arm(name, None, settings.words)
    check_marks(asked.task, asked.samples, arm, None)
    prompt = identity.prompt_hash(asked.task, asked.every, arm.values() | {"system": options.system})
    said = {"model": options.call.model, "arm": name, "prompt sha256": prompt}
    earlier.check_endpoint(settings.out, _named(settings, asked) | said)
    found, refused = answer_by_endpoint(asked.task, asked.samples, arm, options, settings.out)
    run = {
        "model": options.name,
        "arm": f"{name}: {arm.about}",
        "prompt sha256": prompt,
        "system prompt": options.system or "none",
        "max new tokens": options.call.max_tokens,
        "decoding": f"temperature {options.call.temperature}, seed {options.call.seed}",
        "refused, counted as an empty answer": len(refused),
        **_not_sent(asked.samples),
    }
    return found, run


def _not_sent(samples: Sequence[Sample]) -> dict[str, str]:
    """What samples say that an external model is not told, so that a baseline is read for what it is."""
    said = {
        "tags": sum(sample.tags is not None for sample in samples),
        RECORD_KEY: sum(sample.adapters is not None for sample in samples),
    }
    told = ", ".join(f"{name} of {count} samples" for name, count in said.items() if count)
    return {"not sent": f"{told}: only our models read them"} if told else {}


def _of_answers(settings: Settings, asked: _Asked) -> tuple[dict[str, Prediction], dict[str, Any]]:
    """Stored answers, and what is known of how they were made."""
    assert settings.answers is not None
    run = {earlier.ANSWERS: str(settings.answers), earlier.ANSWERS_HASH: sha256_file(settings.answers)}
    stored = stored_answers(asked.task, asked.samples, asked.every, settings.answers, _questions(settings, asked))
    said = _named(settings, asked) | {earlier.ANSWERS_HASH: run[earlier.ANSWERS_HASH]}
    earlier.check_answers(settings.out, settings.answers, said)
    found, told = with_areas(asked.task, asked.samples, stored.answers)
    return found, {**stored.run, **run, **told}


def _write(
    settings: Settings, asked: _Asked, found: Mapping[str, Prediction], run: Mapping[str, Any]
) -> dict[str, Any]:
    task = asked.task
    results, judge = _results(settings, asked, found)
    every = {
        "data": str(settings.data),
        "data sha256": asked.data_sha256,
        "task settings": dict(task.chosen),
        "samples asked": f"{len(asked.samples)} of {len(asked.every)}",
        "seed": settings.seed,
        "versions": identity.versions(),
    }
    score = task.score(results)
    results = with_scores(results, score)
    values = summary(settings.task, task, results, score, {**run, **every}, judge)
    settings.out.mkdir(parents=True, exist_ok=True)
    values["files"] = [str(path) for path in task.write(settings.out, results)]
    write_json(settings.out / earlier.METRICS, values)
    write_markdown(settings.out / "metrics.md", values)
    write_page(settings.out / "report.html", values, task, results, settings.seed)
    return values


def _results(
    settings: Settings, asked: _Asked, found: Mapping[str, Prediction]
) -> tuple[list[Result], dict[str, Any] | None]:
    """The answers with what they are worth, and what is to be said about the judge; without a verdict they are not."""
    task = asked.task
    if isinstance(task, JudgedTask) and settings.judge is not None:
        return judged_results(task, asked.samples, found, settings.judge, settings.out)
    return [
        Result(sample, found[sample.id], task.parse(sample, found[sample.id].answer)) for sample in asked.samples
    ], None
