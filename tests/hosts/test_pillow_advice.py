"""The one line of transformers' log that advises against what we do on purpose."""

from __future__ import annotations

import logging

import pytest

from pvit_ext.hosts.pillow_advice import without_pillow_advice

ADVICE = "`CLIPImageProcessor` requires torchvision (not installed); falling back to `CLIPImageProcessorPil`"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return logging.getLogger("transformers.utils.import_utils")


def test_it_is_left_out_of_the_block_alone(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    with without_pillow_advice():
        with without_pillow_advice():
            log.warning(ADVICE)
        log.warning(ADVICE)
        log.warning("%s is not installed", "torchvision")
    log.warning(ADVICE)
    assert caplog.messages == ["torchvision is not installed", ADVICE]
