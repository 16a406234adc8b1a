"""``python -m examples.quickstart``: build a world and a tiny LLaVA, train both stages, ask about held-out scenes."""

from __future__ import annotations

import argparse
import json
import logging
import random
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from examples.quickstart import report
from examples.quickstart.arms import RENDERINGS, Flags, Launch, ask_arm, common_flags, launch
from examples.quickstart.checkpoint import build_base, image_turn
from examples.quickstart.language import text_turn, train_language_model, train_tokenizer
from examples.quickstart.phases import Phases
from examples.quickstart.towers import REGION_OPTIONS, Scenes, train_clip_tower, train_region_tower
from examples.quickstart.world import SIDES, Rendering, make_scenes, write_training_data

AnySettings = TypeVar("AnySettings", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment; steps are optimizer steps, epochs go over the training scenes."""

    seed: int = 0
    tower_scenes: int = 3000
    train_scenes: int = 2000
    test_scenes: int = 120
    language_steps: int = 600
    clip_steps: int = 700
    region_steps: int = 300
    base_steps: int = 120
    stage1_epochs: float = 1.0
    stage2_epochs: float = 2.0
    stage1_rate: float = 8e-3
    stage2_rate: float = 1e-3

    def scaled(self: AnySettings, scale: float) -> AnySettings:
        """Everything but the seed and the rates times ``scale``."""
        counts = {name: value for name, value in asdict(self).items() if name.endswith(("_scenes", "_steps"))}
        return replace(self, **{name: max(round(value * scale), 10) for name, value in counts.items()})


class Quickstart:
    """The phases, in order, and where each leaves its result.

    Attributes:
        sides: smallest and largest side of a digit, in pixels.
    """

    sides = SIDES

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        seed = settings.seed
        self.scenes: Scenes = make_scenes("train", max(settings.tower_scenes, settings.train_scenes), seed, self.sides)
        self.held_out: Scenes = make_scenes("test", settings.test_scenes, seed, self.sides)

    def data(self) -> int:
        """Training records and images, and one held-out image to play with."""
        write_training_data(self.scenes[: self.settings.train_scenes], self.folder / "train")
        self.held_out[0][0].image.save(self.folder / "held_out.png")
        return sum(len(questions) for _, questions in self.scenes[: self.settings.train_scenes])

    def language(self) -> None:
        """Tokenizer and language model."""
        rng = random.Random(self.settings.seed)
        renderings: tuple[Rendering, ...] = ("image_only", "text_coordinates")
        turns = [text_turn(rng) for _ in range(500)]
        for scene, questions in self.scenes[:300]:
            turns += [(q.render(how, scene.image.size), q.answer) for q in questions for how in renderings]
            turns.append(image_turn(scene, rng))
        train_tokenizer(self.folder / "language", turns)
        train_language_model(self.folder / "language", self.settings.language_steps)

    def clip(self) -> list[float]:
        """The vision tower; returns the fractions of right digits and colours at the end of training."""
        return train_clip_tower(self.folder / "clip", self.scenes, self.settings.clip_steps)

    def regionclip(self) -> list[float]:
        """The region tower; returns the same."""
        return train_region_tower(self.folder / "regionclip.pth", self.scenes, self.settings.region_steps)

    def base(self) -> list[float] | None:
        """LLaVA of these parts."""
        parts = self.folder / "language", self.folder / "clip", self.folder / "base"
        build_base(*parts, self.scenes, self.settings.base_steps)
        return None

    def stage1(self) -> None:
        """Align: ``deepspeed recipes/stage1.sh``."""
        own: Flags = {
            "region_weights": (self.folder / "regionclip.pth").resolve(),
            "region_encoder_options": json.dumps(REGION_OPTIONS),
            "num_train_epochs": self.settings.stage1_epochs,
            "learning_rate": self.settings.stage1_rate,
        }
        launch(Launch("stage1.sh", self.folder / "stage1", common_flags(self.folder, "regions") | own))

    def finetune(self, arm: str) -> None:
        """Finetune: ``deepspeed recipes/stage2.sh``; an arm without regions gets stage 1's epochs on top."""
        settings = self.settings
        epochs = settings.stage2_epochs + (0 if arm == "stage2" else settings.stage1_epochs)
        own: Flags = {
            "region_modules": self.folder / "stage1",
            "num_train_epochs": epochs,
            "learning_rate": settings.stage2_rate,
            "allow_no_gradient": RENDERINGS[arm] != "regions",  # an arm without regions has region modules all the same
        }
        launch(Launch("stage2.sh", self.folder / arm, common_flags(self.folder, RENDERINGS[arm]) | own))

    def ask(self, arm: str) -> list[str]:
        """Answers of an arm to the held-out questions."""
        return ask_arm(arm, self.folder / arm, self.held_out)

    def command(self) -> str:
        """A command that asks about a held-out region."""
        digit = self.held_out[0][0].digits[0]
        words = [
            "pvit-ext",
            "ask",
            "--model",
            str(self.folder / "stage2"),
            "--image",
            str(self.folder / "held_out.png"),
        ]
        words += ["--box", *(f"{edge:g}" for edge in digit.box), "What digit is in <region>?"]
        return shlex.join(words)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done yet, then report."""
    args = build_parser().parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = Settings(seed=args.seed).scaled(args.scale)
    phases = Phases(args.output, asdict(settings), args.fresh)
    quickstart = Quickstart(args.output, settings)
    trained_on = phases.run("data", quickstart.data)
    phases.run("language model", quickstart.language)
    clip = phases.run("CLIP tower", quickstart.clip)
    regionclip = phases.run("RegionCLIP tower", quickstart.regionclip)
    phases.run("base LLaVA", quickstart.base)
    phases.run("stage 1", quickstart.stage1)
    for arm in ("stage2", "image_only", "text_coordinates"):
        phases.run(f"finetune {arm}", partial(quickstart.finetune, arm))
    answers = {arm: phases.run(f"ask {arm}", partial(quickstart.ask, arm)) for arm in RENDERINGS}
    scores = {arm: report.score(quickstart.held_out, texts) for arm, texts in answers.items()}
    count = len(answers["stage2"])
    counts: dict[str, Any] = {
        "counts": {"questions": count, "scenes": settings.test_scenes, "training_questions": trained_on},
        "towers": {"clip": clip, "regionclip": regionclip},
        "settings": asdict(settings),
    }
    report.write_results(args.output / "results.json", scores, phases.seconds, counts)
    report.draw(args.output / "scenes.png", quickstart.held_out, answers)
    print(f"\n{report.table(scores, count)}\n\n{sum(phases.seconds.values()):.0f} s in all")
    print(f"{args.output / 'results.json'} and {args.output / 'scenes.png'} are written. Ask for yourself:")
    print(quickstart.command())
    if args.least is not None and (right := 100 * scores["stage2"]["all"]) < args.least:
        raise SystemExit(f"error: {right:.1f} % are right after stage 2, --least is {args.least:g}")


def build_parser() -> argparse.ArgumentParser:
    """The flags of ``QUICKSTART_ARGS``."""
    parser = argparse.ArgumentParser(prog="python -m examples.quickstart", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="default %(default)s")
    parser.add_argument("--fresh", action="store_true", help="start over; default: keep the phases that are done")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--least", type=float, metavar="PERCENT", help="fail where fewer are right after stage 2")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of scenes and steps; below 1 only tries the machinery"
    )
    return parser


if __name__ == "__main__":
    main()
