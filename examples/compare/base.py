"""The LLaVA that all encoders start from: parts that can do what their readers ask of them, in a tiny world."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from examples.compare.language import train_language_model
from examples.compare.llava import build_llava
from examples.compare.regions import SIDES
from examples.compare.told import symbols, tell_scenes, turns_about
from examples.compare.tower import train_tower
from examples.quickstart.__main__ import Quickstart, Settings
from examples.quickstart.language import text_turn, train_tokenizer
from examples.quickstart.phases import Phases

QUICKSTART = Path("runs/quickstart")


@dataclass(frozen=True)
class Budget(Settings):
    """The quickstart's settings, and what the base takes beyond them.

    The quickstart's ``language_steps`` and ``base_steps`` only tell whether its vision tower can be taken over.
    """

    crowd_scenes: int = 5000
    crowd_steps: int = 8000
    words_scenes: int = 1500
    words_steps: int = 2000
    align_steps: int = 1500
    llava_scenes: int = 3000
    llava_steps: int = 600


class Base(Quickstart):
    """The parts of the comparison that no encoder owns."""

    sides = SIDES
    settings: Budget

    def build(self) -> dict[str, Any]:
        """Make what is not there yet; return each part's fractions of right digits and colours, in training."""
        phases = Phases(self.folder, asdict(self.settings), remedy="--fresh keeps it, so delete it yourself")
        phases.run("quickstart's CLIP tower", self.quickstart)
        phases.run("data", self.data)
        clip, regionclip = phases.run("CLIP tower", self.clip), phases.run("RegionCLIP tower", self.regionclip)
        phases.run("language model", self.language)
        return {"clip": clip, "regionclip": regionclip, "projector": phases.run("base LLaVA", self.base)}

    def quickstart(self) -> None:
        """The quickstart's vision tower: that of ``runs/quickstart``, if it is of this size."""
        folder = self.folder / "quickstart"
        if _is_made(QUICKSTART, self.settings):
            shutil.copytree(QUICKSTART / "clip", folder / "clip", dirs_exist_ok=True)
        else:
            Quickstart(folder, self.settings).clip()

    def clip(self) -> list[float]:
        """The quickstart's vision tower, trained further."""
        start, settings = self.folder / "quickstart" / "clip", self.settings
        return train_tower(self.folder / "clip", start, settings.crowd_scenes, settings.crowd_steps, settings.seed)

    def language(self) -> None:
        """Tokenizer and language model."""
        folder, settings, rng = self.folder / "language", self.settings, random.Random(self.settings.seed)
        turns = [text_turn(rng) for _ in range(500)]
        for told in tell_scenes(500, (3, 5), rng):
            turns += turns_about(told, told.scene.digits, rng)
        train_tokenizer(folder, turns, symbols())
        train_language_model(folder, settings.words_scenes, settings.words_steps, settings.seed)

    def base(self) -> list[float]:
        """LLaVA of these parts; returns the fractions of right digits and colours of its aligned projector."""
        parts = self.folder / "language", self.folder / "clip", self.folder / "base"
        settings = self.settings
        return build_llava(*parts, settings.llava_scenes, settings.align_steps, settings.llava_steps, settings.seed)


def _is_made(folder: Path, settings: Settings) -> bool:
    known, own = folder / "settings.json", {field.name: getattr(settings, field.name) for field in fields(Settings)}
    if not known.is_file() or json.loads(known.read_text(encoding="utf-8")) != own:
        return False
    return (folder / "done" / "CLIP tower.json").is_file()
