"""``load_pretrained_model`` on both hosts: what it does not know is told by name."""

from __future__ import annotations

import pytest

import pvit_ext
from tests.hosts.test_shared_images import BOTH
from tests.hosts.tiny_hosts import TinyHost

pytestmark = pytest.mark.parametrize("host", BOTH, indirect=True)


@pytest.mark.parametrize("name", ["attn_implementaton", "use_cache"])
def test_an_argument_that_nobody_takes(host: TinyHost, name: str) -> None:
    with pytest.raises(TypeError, match=f"^load_pretrained_model takes no {name}=: leave it out, or look at its spell"):
        pvit_ext.load_pretrained_model(str(host.folder()), device="cpu", **{name: True})


def test_another_type_error_stays_as_it_is(host: TinyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise TypeError("f() got an unexpected keyword argument 'dtype'")

    folder = str(host.folder())
    monkeypatch.setattr("pvit_ext.hosts.loading.host_of_checkpoint", lambda kind: type("Host", (), {"load": fails}))
    with pytest.raises(TypeError, match=r"^f\(\) got"):
        pvit_ext.load_pretrained_model(folder, device="cpu", attn_implementation="eager")
