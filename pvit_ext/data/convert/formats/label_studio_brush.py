"""Label Studio's packing of brush masks, which is not COCO's.

Bits: 32 the number of values, 5 word size - 1, four times 4 a run size - 1; then until all values are there: 1 bit
whether a value repeats, 2 bits which run size, that many bits length - 1, then one value if it repeats, else one for
each place. Values are RGBA row by row; the mask is alpha > 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.annotation import Size
from pvit_ext.data.convert.notes import BadItem


class _Bits:
    """Numbers of some bits each, read one after the other."""

    def __init__(self, data: bytes) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self.position = 0

    def take(self, count: int) -> int:
        """The next number of so many bits."""
        end = self.position + count
        if end > len(self.bits):
            raise BadItem("a brush's rle breaks off")
        number = int("".join(map(str, self.bits[self.position : end])) or "0", 2)
        self.position = end
        return number


def decode_brush(rle: Sequence[int], size: Size) -> NDArray[np.bool_]:
    """The mask of a brush, bool (H, W).

    Args:
        rle: bytes as numbers.
        size: (width, height) of the image.

    Raises:
        BadItem: for a packing that breaks off or is of another size.
    """
    try:
        bits = _Bits(bytes(rle))
    except (ValueError, TypeError) as error:
        raise BadItem("a brush's rle is a list of numbers 0..255") from error
    count = bits.take(32)
    if count != size[0] * size[1] * 4:
        raise BadItem(f"a brush's rle has {count} values, its image {size[0]}x{size[1]}x4")
    word = bits.take(5) + 1
    runs = [bits.take(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.int64)
    position = 0
    while position < count:
        repeats, length = bits.take(1), bits.take(runs[bits.take(2)]) + 1
        if position + length > count:
            raise BadItem("a brush's rle holds more values than it says")
        if repeats:
            values[position : position + length] = bits.take(word)
        else:
            values[position : position + length] = [bits.take(word) for _ in range(length)]
        position += length
    alpha: NDArray[np.bool_] = values.reshape(size[1], size[0], 4)[:, :, 3] > 0
    return alpha
