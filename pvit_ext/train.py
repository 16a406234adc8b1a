"""Training by its public name: ``python -m pvit_ext.train --stage align ...``, and what patched LLaVA trees call."""

from __future__ import annotations

from pvit_ext.training.run import main, run_as_program, use_regions

__all__ = ["main", "use_regions"]

if __name__ == "__main__":
    run_as_program()
