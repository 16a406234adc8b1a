"""A narrow RegionCLIP with the goldens' weights."""

from __future__ import annotations

import pytest

from pvit_ext.encoders.regionclip.encoder import RegionCLIP
from tests.encoders.regionclip import NARROW, loaded, ruled_weights

# The original's numbers


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> RegionCLIP:
    return loaded(NARROW, {"model": ruled_weights("g1a_regionclip_narrow")}, tmp_path_factory.mktemp("narrow"))
