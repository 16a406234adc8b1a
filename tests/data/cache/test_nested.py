"""What a module returns, taken apart and put together."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch

from pvit_ext.data.cache.nested import put_together, take_apart
from pvit_ext.data.cache.vision import packed, unpacked


def test_parts_come_back_under_their_names() -> None:
    tensors = [torch.rand(2, 3) for _ in range(4)]
    value = OrderedDict(hidden=(None, tensors[0], [tensors[1]]), last=tensors[2], more={"a": tensors[3], "b": None})
    form, found = take_apart(value)
    again = put_together(json.loads(json.dumps(form)), found)
    assert again.hidden[0] is None
    assert [again.hidden[1], again.hidden[2][0], again.last, again.more.a] == tensors
    assert again.more.b is None
    assert again.more.to_tuple() == (tensors[3],), "as transformers' outputs, which leave out what is None"
    assert put_together(*take_apart(tensors[0])) is tensors[0]


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="it holds a str"):
        take_apart([torch.zeros(1), "text"])


def test_sizes_are_kept_and_pixels_become_zeros() -> None:
    prepared = {"pixels": torch.rand(3, 8, 8), "grid": torch.tensor([[1, 4, 6]]), "count": [2]}
    again = unpacked(json.loads(json.dumps(packed(prepared))))
    assert torch.equal(again["pixels"], torch.zeros(3, 8, 8))
    assert torch.equal(again["grid"], prepared["grid"])
    assert again["grid"].dtype == torch.int64
    assert again["count"] == [2]
