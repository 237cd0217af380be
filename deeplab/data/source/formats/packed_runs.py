"""Label Studio's packing of brushes: thi.ng's rle-pack, a stream of bits, of the red, green, blue and alpha of pixels.

It begins with the number of values (32 bits), the bits of a value less one (5), and four sizes of counts less one
(4 each). Then come runs: a bit that says whether one value is repeated, two that choose a size, a count less one, and
the value or the values. Source: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

import numpy as np

_HEADER = 53


def alpha_of_brush(packed: bytes, height: int, width: int) -> np.ndarray:
    """The alpha of a brush: uint8 [height, width].

    Raises:
        ValueError: damaged, or of another number of pixels.
    """
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    digits = (bits + ord("0")).tobytes()
    if len(bits) < _HEADER:
        raise ValueError("a brush that was cut short")
    num_values = int(digits[:32], 2)
    if num_values != 4 * height * width:
        raise ValueError(f"a brush of {num_values:,} values, not {4 * height * width:,}")
    word = int(digits[32:37], 2) + 1
    if word != 8:
        raise ValueError(f"a brush with values of {word} bits, not 8")
    sizes = [int(digits[start : start + 4], 2) + 1 for start in range(37, _HEADER, 4)]
    values = np.empty(num_values, np.uint8)
    place = _HEADER
    filled = 0
    while filled < num_values:
        size = sizes[int(digits[place + 1 : place + 3] or b"0", 2)]
        start = place + 3 + size
        if start + 8 > len(bits):
            raise ValueError("a brush that was cut short")
        count = int(digits[place + 3 : start], 2) + 1
        is_repeated = bool(bits[place])
        place = start + (8 if is_repeated else 8 * count)
        if filled + count > num_values or place > len(bits):
            raise ValueError("a brush with a run beyond its end")
        values[filled : filled + count] = np.packbits(bits[start:place])
        filled += count
    return values.reshape(height, width, 4)[..., 3]
