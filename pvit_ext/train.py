"""Training by its public name: ``python -m pvit_ext.train --stage align ...``, and what patched LLaVA trees call."""

from __future__ import annotations

from pvit_ext.hosts.pillow_advice import without_pillow_advice
from pvit_ext.training.run import main, run_as_program

__all__ = ["main", "use_regions"]


def use_regions() -> None:
    """Give LLaVA's own ``train()`` regions for the rest of the process: what a tree with our patch file calls first."""
    from pvit_ext.hosts.llava import compat

    compat.prepare_training()  # before anything imports llava.train
    from pvit_ext.training.llava.patched_tree import install

    install()


if __name__ == "__main__":
    with without_pillow_advice():
        run_as_program()
