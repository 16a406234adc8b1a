"""The data of the training tests; LLaVA's training code is imported by some tests here."""

from __future__ import annotations

from pvit_ext.hosts.llava import compat

compat.prepare_training()

from tests.training.conftest import data, images  # noqa: E402, F401
