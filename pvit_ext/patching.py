"""The name by which LLaVA trees with our patch file find ``apply_pvit``."""

from __future__ import annotations

from pvit_ext.hosts.llava.patching import PatchError, PatchPoint, apply_pvit, patched, remove_pvit

__all__ = ["PatchError", "PatchPoint", "apply_pvit", "patched", "remove_pvit"]
