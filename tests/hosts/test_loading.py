"""``load_pretrained_model`` on both hosts: what it does not know is told by name."""

from __future__ import annotations

import pytest
import torch

import pvit_ext
from pvit_ext.hosts import precision
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import Loaded, host_of_checkpoint
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


@pytest.mark.parametrize(
    ("dtype", "has", "warnings"), [(torch.bfloat16, False, 1), ("bf16", True, 0), ("float32", False, 0)]
)
def test_bfloat16_on_a_cpu_without_it_is_said_to_be_slow(
    host: TinyHost,
    dtype: torch.dtype | str,
    has: bool,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each command that asks loads by this function: `ask`, `eval`, `serve` and `demo`."""
    caplog.set_level("WARNING", "pvit_ext")  # which a command that ran before may have set
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    entry = type(host_of_checkpoint(find_kind(str(host.folder()))))
    monkeypatch.setattr(entry, "load", lambda *_: Loaded(None, None, None, 0))
    pvit_ext.load_pretrained_model(str(host.folder()), device="cpu", dtype=dtype)
    assert len(caplog.messages) == warnings
    for text in ("no instructions for bfloat16", 'load_pretrained_model(..., dtype="float32")'):
        assert caplog.text.count(text) == warnings
