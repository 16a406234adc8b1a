"""Checkpoints with regions as a model of lmms-eval, and tasks of ``pvit-ext eval`` as its tasks."""
