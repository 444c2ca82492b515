"""A row of a real weight as a quantised layer stores it: codes, scales, and what rounding changes."""

from collections.abc import Sequence

import numpy as np

from .. import style
from ..show import Picture
from .figure import Figure, floats

# The value of each code, in parts of the block's largest weight, as bitsandbytes has them. NF4 is QLoRA's table
# (appendix E): the quantiles of a normal distribution. FP4 has a sign, two bits of exponent and one of mantissa.
CODES = {
    "nf4": (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635)
    + (-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725)
    + (0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    "fp4": tuple(sign * x / 12 for sign in (1, -1) for x in (0, 0.0625, 8, 12, 4, 6, 2, 3)),
}
SIZES = (32, 64, 128)  # of a block
WIDE = 128  # weights in the row
REACH = 0.75  # how large a weight can be dragged
ENLARGED = 8  # errors are drawn so much larger


def quantised(row: np.ndarray, kind: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> codes, scales, and the weights that they give back; in float32, as quant_blocks.js does.

    Args:
        kind: "nf4" or "fp4", with one scale per `size` weights; "int8", with one for the whole row.
    """
    row = np.asarray(row, dtype=np.float32)
    if kind == "int8":
        scale = np.abs(row).max()
        codes = np.round(row * (np.float32(127) * (np.float32(1) / scale)))  # as torch computes 127 / scale
        return codes.astype(int), np.array([scale]), codes * (scale / np.float32(127))
    values = np.array(CODES[kind], dtype=np.float32)
    order = np.argsort(values, kind="stable")
    bounds = (values[order[:-1]] + values[order[1:]]) / np.float32(2)
    blocks = row.reshape(-1, size)
    scales = np.abs(blocks).max(1)
    codes = order[np.searchsorted(bounds, blocks * (np.float32(1) / scales)[:, None])]
    return codes.ravel(), scales, (values[codes] * scales[:, None]).ravel()


class QuantBlocks(Figure, js="quant_blocks.js"):
    """The reader drags one weight of a row, or stores it otherwise, and watches levels, codes and errors.

    Args:
        row: 128 weights of a layer, next to each other.
        name: of the layer.
        at: the weight that has the handle at first.

    Raises:
        ValueError: there are more or fewer weights, or one is beyond the figure's reach.
    """

    def __init__(self, row: Sequence[float], name: str, at: int = 40):
        row = np.array(row, dtype=np.float16)  # int8 layers are made from float16, and so is what can be dragged
        if row.shape != (WIDE,) or np.abs(row).max() > REACH:
            raise ValueError(f"a row is {WIDE} weights within {REACH}: this one has shape {row.shape}")
        codes = [[kind, list(values)] for kind, values in CODES.items()]
        data = {"row": floats(row), "name": name, "at": at, "codes": codes, "sizes": list(SIZES)}
        super().__init__(data | {"reach": REACH, "enlarged": ENLARGED})

    def still(self) -> Picture:
        row = np.frombuffer(self.data["row"], "<f4")
        index = np.arange(WIDE)
        _, scales, back = quantised(row, "nf4", 64)
        off = [np.linalg.norm(e) / np.linalg.norm(w) for e, w in zip((back - row).reshape(2, 64), row.reshape(2, 64))]

        fig, axes = style.figure(columns=2, height=3.0)
        for b, scale in enumerate(scales):
            axes[0].hlines([v * scale for v in CODES["nf4"]], 64 * b, 64 * b + 63, color=style.GRID, linewidth=0.8)
        axes[0].plot(index, row, ".", color=style.INK, markersize=4)
        axes[0].set(title="two blocks of 64, nf4", xlabel=f"a row of {self.data['name']}", ylabel="weight")
        axes[1].vlines(index, 0, back - row, color=style.INK, linewidth=1.2)
        axes[1].set(title="what rounding changes", xlabel=f"off by {off[0]:.0%} and {off[1]:.0%}")
        for ax in axes:
            ax.axvline(63.5, color=style.MUTED, linewidth=1, linestyle=":")
            ax.grid(False)
        return Picture(
            fig,
            f"Left, the {WIDE} weights of a row as dots over the sixteen nf4 levels of their two blocks, which lie "
            f"closest near zero. Right, how far each weight is from its level: {off[0]:.0%} of the first block's "
            f"norm, {off[1]:.0%} of the second's.",
            "The first frame. In the book, in JupyterLab and in Colab a weight can be dragged.",
        )
