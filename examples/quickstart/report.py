"""What the quickstart reports: accuracies as a table and as JSON, and a drawing of held-out scenes with the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.quickstart.towers import Scenes
from examples.quickstart.world import Question, Scene
from pvit_ext.files import atomic_write

KINDS = ("digit", "colour", "larger")
TITLES = {
    "image_only": "image only",
    "text_coordinates": "coordinates as text",
    "stage1": "region tokens, stage 1",
    "stage2": "region tokens, stage 2",
}
SHOWN = 8


def score(scenes: Scenes, answers: list[str]) -> dict[str, float]:
    """Accuracy 0..1 over all questions (``all``) and by kind; an answer counts when it is exactly the expected one."""
    questions = [question for _, own in scenes for question in own]
    right = [is_right(question, answer) for question, answer in zip(questions, answers, strict=True)]
    result = {"all": sum(right) / len(right)}
    for kind in KINDS:
        own = [hit for question, hit in zip(questions, right, strict=True) if question.kind == kind]
        result[kind] = sum(own) / len(own)
    return result


def is_right(question: Question, answer: str) -> bool:
    """Whether the answer is the expected one, but for case and a full stop."""
    return answer.strip(" .").lower() == question.answer


def table(scores: dict[str, dict[str, float]], count: int) -> str:
    """One line per arm, accuracies in per cent."""
    lines = [f"{f'accuracy on {count} held-out questions, %':<42}" + "".join(f"{kind:>9}" for kind in ("all", *KINDS))]
    for arm, values in scores.items():
        lines.append(f"{TITLES[arm]:<42}" + "".join(f"{100 * values[kind]:>9.1f}" for kind in ("all", *KINDS)))
    return "\n".join(lines)


def write_results(
    path: Path, scores: dict[str, dict[str, float]], seconds: dict[str, float], extra: dict[str, Any]
) -> None:
    """``{arm: accuracy}``, accuracies by kind, seconds per phase, and whatever else is given."""
    results = {arm: values["all"] for arm, values in scores.items()}
    by_kind = {arm: {kind: values[kind] for kind in KINDS} for arm, values in scores.items()}
    content = {**results, **extra, "by_kind": by_kind, "seconds": seconds, "seconds_total": sum(seconds.values())}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def draw(path: Path, scenes: Scenes, answers: dict[str, list[str]]) -> None:
    """Held-out scenes with the regions of one question each, and what every arm answered to it.

    Args:
        path: PNG to write.
        scenes: as they were asked about.
        answers: arm -> answers, scene by scene.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8.4), layout="constrained")
    axes = figure.subplots(2, SHOWN // 2).flatten()
    position = 0
    for number, (scene, questions) in enumerate(scenes[:SHOWN]):
        kind = KINDS[number % len(KINDS)]
        chosen = next((i for i, question in enumerate(questions) if question.kind == kind), 0)
        given = {arm: texts[position + chosen] for arm, texts in answers.items()}
        _draw_scene(axes[number], scene, questions[chosen], given)
        position += len(questions)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _draw_scene(axis: Any, scene: Scene, question: Question, given: dict[str, str]) -> None:
    from matplotlib.patches import Rectangle

    axis.imshow(scene.image)
    axis.set_axis_off()
    for number, (x0, y0, x1, y1) in enumerate(question.boxes, start=1):
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="cyan", linewidth=2))
        axis.text(x0 - 0.5, y0 - 1.5, str(number), color="cyan", fontsize=11, va="bottom")
    text = question.text
    for number in range(1, len(question.boxes) + 1):
        text = text.replace("<region>", f"[{number}]", 1)
    axis.set_title(f"{text}\nright answer: {question.answer}", fontsize=10)
    for row, (arm, answer) in enumerate(given.items()):
        right = is_right(question, answer)
        line = f"{'✓' if right else '✗'} {TITLES[arm]}: {answer or '(nothing)'}"
        colour = "tab:green" if right else "tab:red"
        axis.text(0, -0.05 - 0.075 * row, line, color=colour, fontsize=10, va="top", transform=axis.transAxes)
