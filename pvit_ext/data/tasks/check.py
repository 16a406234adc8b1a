"""A question whether something is true of a region: half of these questions claim what is not."""

from __future__ import annotations

from dataclasses import dataclass

from pvit_ext.data.tasks.base import Context, Turn, fill


@dataclass(frozen=True)
class Check:
    """The templates of such a question.

    Args:
        field: of all templates, in braces: what is claimed, and in an answer what is true.
        ask: questions.
        right: answers where the claim is true.
        wrong: answers where it is not.
    """

    field: str
    ask: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def turn(self, true: str, false: str, objects: tuple[int, ...], context: Context, *names: object) -> Turn:
        """A question that claims one of two things, as often the one as the other.

        Args:
            true: what is so.
            false: what is not.
            objects: see :class:`~pvit_ext.data.tasks.base.Turn`.
            context: of the task.
            names: of what it is for.
        """
        choice = context.choice
        is_right = choice.chance("check", *names)
        question = fill(choice.of(self.ask, "check", *names), **{self.field: true if is_right else false})
        answer = choice.of(self.right if is_right else self.wrong, "checked", *names)
        return Turn(question, fill(answer, **{self.field: true}), objects)
