"""Evaluation: a task's samples asked of a model or an endpoint, scored, and shown.

A task (:mod:`pvit_ext.evaluation.task`) gives samples and scores answers; an arm (:mod:`pvit_ext.evaluation.arms`) says
how a sample's regions are shown; answers go into a file that is only appended to
(:mod:`pvit_ext.evaluation.predictions`).
"""
