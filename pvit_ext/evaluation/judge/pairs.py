"""Judges that rate two answers from 1 to 10, a reference and a model's: LLaVA's protocol, which Ferret and MDVP use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pvit_ext.data.generate.reply import BadReply
from pvit_ext.evaluation.measures import mean
from pvit_ext.evaluation.sample import Result

Pair = tuple[float, float]
"""Points of the reference and of the model."""
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
BY_SCRIPT: Pair = (-1.0, -1.0)
"""What the scripts make of an unreadable reply, and keep in both means."""
_HIGHEST = 10.0


def read_pair(reply: str) -> Pair:
    """The two numbers of the first line.

    Raises:
        BadReply: where it is no such line.
    """
    words = reply.strip().partition("\n")[0].replace(",", " ").split()
    try:
        pair = float(words[0]), float(words[1])
    except (IndexError, ValueError):
        pair = (-1.0, -1.0)
    if not all(0 <= points <= _HIGHEST for points in pair):
        raise BadReply("the first line has to be two numbers from 1 to 10, the first answer's and the second's")
    return pair


def pair_text(context: str, question: str, answers: tuple[str, str], rule: Mapping[str, str]) -> str:
    """The text of a call.

    Args:
        context: what the judge is told about the image.
        question: that both answer.
        answers: the reference, then the model's.
        rule: the benchmark's ``prompt``, and the ``role`` that the answers are given to.
    """
    role = rule["role"]
    parts = [("Context", context), ("Question", question)]
    text = "".join(f"[{name}]\n{value}\n\n" for name, value in parts)
    for number, answer in enumerate(answers, 1):
        text += f"[{role} {number}]\n{answer}\n\n[End of {role} {number}]\n\n"
    return f"{text}[System]\n{rule['prompt']}\n\n"


def relative(pairs: Sequence[Pair]) -> float:
    """The model's mean points over the reference's; 0 where the reference has none."""
    reference, model = (mean([pair[which] for pair in pairs]) for which in (0, 1))
    return model / reference if reference else 0.0


def relative_by(
    results: Sequence[Result], pairs: Sequence[Pair], group: Callable[[Result], str]
) -> dict[str, tuple[float, int]]:
    """The relative score and the number of samples of each group.

    Args:
        results: of all samples.
        pairs: theirs, in the same order.
        group: of a sample.
    """
    found: dict[str, list[Pair]] = {}
    for result, pair in zip(results, pairs, strict=True):
        found.setdefault(group(result), []).append(pair)
    return {name: (relative(some), len(some)) for name, some in found.items()}
