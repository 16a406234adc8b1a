"""A task of ``pvit-ext eval``, written as a task of lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path

from pvit_ext.evaluation.arms import MARKS, REGIONS
from pvit_ext.evaluation.judge.task import JudgedTask
from pvit_ext.evaluation.lmms_eval.manifest import MODEL
from pvit_ext.evaluation.task import TASKS, TaskOptions
from pvit_ext.files import atomic_write

TASK_FILE, DOCS_FILE = "task.json", "docs.jsonl"
METRIC = "pvit_ext_score"
_FUNCTIONS = "pvit_ext.evaluation.lmms_eval.docs"
_YAML = """\
# Written by `pvit-ext eval {task} --lmms-eval`: {about}.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {docs}
test_split: test
output_type: generate_until
doc_to_visual: !function {functions}.visuals
doc_to_text: !function {functions}.text
doc_to_target: reference
process_results: !function {functions}.results
metric_list:
  - metric: {metric}
    aggregation: !function {functions}.main_metric
    higher_is_better: true
generation_kwargs:
  max_new_tokens: {tokens}
  temperature: 0
  do_sample: false
  num_beams: 1
lmms_eval_specific_kwargs:
  default:
    arm: {marks}
  {model}:
    arm: {regions}
metadata:
  - version: {version}
"""


def export_task(name: str, options: TaskOptions, out: Path) -> str:
    """Write the task's files.

    Args:
        name: as it is registered.
        options: that it is made with.
        out: folder, for lmms-eval's ``--include_path``.

    Returns:
        its name for lmms-eval.

    Raises:
        ValueError: for a task with a judge, or questions with earlier turns.
    """
    task = TASKS.require(name)(options)
    if isinstance(task, JudgedTask):
        raise ValueError(f"{name} is scored by a judge or by people: use `pvit-ext eval {name}`")
    task.check_asking()
    samples = list(task.load())
    if not samples or any(sample.history for sample in samples):
        raise ValueError(f"{name}: lmms-eval asks single questions; these are {len(samples)}, or have earlier turns")
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "task": name,
        "data": str(options.data.absolute()),
        "image_folder": str(Path(options.image_folder).absolute()),
        "settings": dict(options.settings),
    }
    task_file, ours = (out / TASK_FILE).absolute(), f"{MODEL}_{name.replace('-', '_')}"
    docs = [{"id": one.id, "reference": one.reference, "task_file": str(task_file)} for one in samples]
    docs_file = json.dumps(str((out / DOCS_FILE).absolute()))
    yaml = _YAML.format(
        task=name, about=task.about, name=ours, docs=docs_file, functions=_FUNCTIONS,
        metric=METRIC, tokens=task.max_new_tokens, marks=MARKS, regions=REGIONS, model=MODEL, version=task.version,
    )  # fmt: skip
    files = {
        TASK_FILE: json.dumps(told, indent=2) + "\n",
        DOCS_FILE: "".join(json.dumps(doc) + "\n" for doc in docs),
        f"{ours}.yaml": yaml,
    }
    for file, text in files.items():
        with atomic_write(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return ours
