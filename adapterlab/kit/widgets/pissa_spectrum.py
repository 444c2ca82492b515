"""PiSSA's cut through a layer's spectrum, and what rounding makes of taking the top out and adding it again."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .. import style
from ..show import Picture
from .figure import Figure, floats, rounded

BLOCK = 40  # rows and columns of W that the page holds
MOST = 64  # the largest rank that can be cut
START = 8
BITS = {"fp32": (23, -126), "fp16": (10, -14), "bf16": (7, -126)}  # of the mantissa; the smallest normal exponent


def stored(x: np.ndarray, kind: str) -> np.ndarray:
    """x as a float of this kind holds it: to the nearest, ties to even. As pissa_spectrum.js does."""
    bits, smallest = BITS[kind]
    exponent = np.maximum(np.floor(np.log2(np.abs(x), where=x != 0, out=np.full(x.shape, -1e9))), smallest)
    step = np.exp2(exponent - bits)
    return np.round(x / step) * step


def put_back(W: np.ndarray, top: np.ndarray, kind: str) -> np.ndarray:
    """W' - W of a layer that stores W - top and adds top again."""
    W = stored(W, kind)
    return stored(W - top, kind) + top - W


class PissaSpectrum(Figure, js="pissa_spectrum.js"):
    """The reader cuts a layer's spectrum at r, and sees the energy cut out and W' - W at t=0 in two ways.

    Args:
        weights: name -> W (d_out, d_in) of a layer, at least 64 by 64; the first one is shown at first.

    Raises:
        ValueError: a weight is smaller than that.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        layers = []
        for name, W in weights.items():
            if W.ndim != 2 or min(W.shape) < MOST:
                raise ValueError(f"{name} has shape {tuple(W.shape)}: the figure cuts up to {MOST} directions")
            W = W.detach().double().cpu()
            U, S, Vh = torch.linalg.svd(W, full_matrices=False)
            sign = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()[0]  # an SVD's signs are the processor's choice
            root = S[:MOST].sqrt() * sign[:MOST]
            B0, A0 = U[:BLOCK, :MOST] * root, root[:, None] * Vh[:MOST, :BLOCK]
            layers.append(
                {
                    "name": name,
                    "shape": list(W.shape),
                    "values": rounded(S.tolist(), 4),
                    "W": floats(W[:BLOCK, :BLOCK]),
                    # Five digits: the same on every processor, and any top part will do for taking out and adding.
                    "B0": floats(B0.numpy().round(5)),
                    "A0": floats(A0.numpy().round(5)),
                }
            )
        kinds = [[name, *sizes] for name, sizes in BITS.items()]  # a notebook sorts the keys of a dict
        super().__init__({"layers": layers, "block": BLOCK, "most": MOST, "r": START, "kinds": kinds})

    def still(self) -> Picture:
        layer = self.data["layers"][0]
        values = np.array(layer["values"])
        share = (values[:START] ** 2).sum() / (values**2).sum()
        W, B0, A0 = (np.frombuffer(layer[key], "<f4").astype(float) for key in ("W", "B0", "A0"))
        W, B0, A0 = W.reshape(BLOCK, BLOCK), B0.reshape(BLOCK, MOST), A0.reshape(MOST, BLOCK)
        top = B0[:, :START] @ A0[:START]
        maps = {"taken out, added again": put_back(W, top, "bf16"), "difference form": np.zeros_like(W)}
        limit = np.abs(maps["taken out, added again"]).max()

        fig, axes = style.figure(columns=3, height=2.9)
        pissa = style.MARKS["pissa"].line
        index = np.arange(1, len(values) + 1)
        axes[0].bar(index[:START], values[:START], width=1.0, color=pissa)
        axes[0].bar(index[START:], values[START:], width=1.0, color=style.MUTED)
        axes[0].set(title=f"singular values of {layer['name']}", xlabel="index")
        axes[0].text(START + 4, 0.92 * values[0], f"top {START}: {share:.0%} of the energy", color=style.INK)
        for ax, (title, error) in zip(axes[1:], maps.items()):
            ax.imshow(error, cmap="RdBu", vmin=-limit, vmax=limit)
            ax.set(title=title, xlabel="W' - W at t=0, bf16", xticks=[], yticks=[])
            ax.grid(False)
        return Picture(
            fig,
            f"Left, the {len(values)} singular values of {layer['name']} as bars, the first {START} in colour: they "
            f"hold {share:.0%} of the energy. Middle, a block of W' - W at t=0 in bf16 where the top was taken out "
            "of the stored weight and added again: speckles everywhere. Right, the same by the difference form: empty.",
            "The first frame. In the book, in JupyterLab and in Colab the cut can be dragged.",
        )
