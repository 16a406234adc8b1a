"""The LLaVA that all encoders start from: the quickstart's parts, with towers that were shown smaller digits too."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.compare.regions import SIDES
from examples.quickstart.__main__ import Quickstart, Settings
from examples.quickstart.checkpoint import build_base
from examples.quickstart.phases import Phases
from examples.quickstart.towers import Scenes, train_clip_tower
from examples.quickstart.world import make_scene

QUICKSTART = Path("runs/quickstart")
CROWD = (8, 16)
"""Digits that are tried on a scene for the image tower: three times as many as elsewhere, for as much more to learn."""


class Base(Quickstart):
    """The parts of the comparison that no encoder owns.

    The quickstart's image tower tells digits apart only roughly, and nothing that reads it could do better. So it is
    trained further, on the same task (which digit in which colour lies under a patch) and other scenes: crowded ones,
    wrapped around by random distances, so that no patch is seen twice.
    """

    sides = SIDES

    def build(self) -> dict[str, Any]:
        """Make what is not there yet; return the towers' shares of right digits and colours at the end of training."""
        phases = Phases(self.folder, asdict(self.settings))
        phases.run("quickstart", self.quickstart)
        phases.run("data", self.data)
        towers = {
            "clip": phases.run("CLIP tower", self.clip),
            "regionclip": phases.run("RegionCLIP tower", self.regionclip),
        }
        phases.run("base LLaVA", self.base)
        return towers

    def quickstart(self) -> None:
        """The quickstart's language model and image tower: those of ``runs/quickstart``, if they are of this size."""
        folder = self.folder / "quickstart"
        if _is_made(QUICKSTART, self.settings):
            for part in ("language", "clip"):
                shutil.copytree(QUICKSTART / part, folder / part, dirs_exist_ok=True)
        else:
            quickstart = Quickstart(folder, self.settings)
            quickstart.language()
            quickstart.clip()

    def clip(self) -> list[float]:
        """The quickstart's image tower, trained further."""
        rng, settings = random.Random(f"crowd-{self.settings.seed}"), self.settings
        crowd: Scenes = [(make_scene("train", rng, SIDES, CROWD), []) for _ in range(settings.tower_scenes)]
        start, steps = self.folder / "quickstart" / "clip", 3 * settings.clip_steps
        return train_clip_tower(self.folder / "clip", crowd, steps, start=start, wrap=True)

    def base(self) -> None:
        """LLaVA of these parts."""
        parts = self.folder / "quickstart" / "language", self.folder / "clip", self.folder / "base"
        build_base(*parts, self.scenes, self.settings.base_steps)


def _is_made(folder: Path, settings: Settings) -> bool:
    known = folder / "settings.json"
    if not known.is_file() or json.loads(known.read_text(encoding="utf-8")) != asdict(settings):
        return False
    return all((folder / "done" / f"{part}.json").is_file() for part in ("language model", "CLIP tower"))
