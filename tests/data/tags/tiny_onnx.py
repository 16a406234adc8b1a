"""An ONNX file of a few hundred bytes, written by hand: a detector whose cells see the colour of one pixel each."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

COLOURS = ("red", "green", "blue")


def write_detector(path: Path, side: int = 4) -> Path:
    """A 1x1 convolution on (1, 3, side, side) BGR: objectness 1, no box, and the pixel's three colours as classes."""
    weights = [0.0] * 15 + [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]  # (8, 3, 1, 1); red is the third channel
    bias = [1.0] + [0.0] * 7
    node = _text(1, "x") + _text(1, "w") + _text(1, "b") + _text(2, "y") + _text(4, "Conv")
    graph = _field(1, node) + _text(2, "detector")
    graph += _field(5, _tensor("w", (8, 3, 1, 1), weights)) + _field(5, _tensor("b", (8,), bias))
    graph += _field(11, _value("x", (1, 3, side, side))) + _field(12, _value("y", (1, 8, side, side)))
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _text(1, "") + _number(2, 13)))
    return path


def write_op(path: Path, op: str, shape: Sequence[int], out: Sequence[int], kind: int = 1) -> Path:
    """One operator without weights, from x to y: no detector, but a model that loads. ``kind`` is ONNX's of a dtype."""
    graph = _field(1, _text(1, "x") + _text(2, "y") + _text(4, op)) + _text(2, "op")
    graph += _field(11, _value("x", shape, kind)) + _field(12, _value("y", out, kind))
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _text(1, "") + _number(2, 13)))
    return path


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _tensor(name: str, shape: Sequence[int], values: Sequence[float]) -> bytes:
    sizes = b"".join(_number(1, size) for size in shape)
    return sizes + _number(2, 1) + _text(8, name) + _field(9, struct.pack(f"<{len(values)}f", *values))


def _value(name: str, shape: Sequence[int], kind: int = 1) -> bytes:
    sizes = b"".join(_field(1, _number(1, size)) for size in shape)
    return _text(1, name) + _field(2, _field(1, _number(1, kind) + _field(2, sizes)))
