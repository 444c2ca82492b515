"""EVA's first choice: where one row of A must point to catch most of a layer's inputs, with their mean and without."""

import numpy as np

from .. import style
from ..show import Picture
from .figure import Figure, rounded

START = 120  # degrees from the mean: a poor needle


class EvaNeedle(Figure, js="eva_needle.js"):
    """The inputs of a layer as a cloud, and a needle that the reader turns in it.

    The plane is spanned by the inputs' mean (to the right) and, upwards, what is left of their first centred
    principal direction. Lengths are in units of the inputs' root mean square.

    Args:
        inputs: (tokens, d_in), what the layer is given.
        dots: how many of them are drawn; energies are of all.
    """

    def __init__(self, inputs, dots: int = 200):
        x = np.asarray(inputs, dtype=float)
        if x.ndim != 2 or len(x) < 3 or x.shape[1] < 2:
            raise ValueError(f"inputs has shape {x.shape}: a layer's inputs are (tokens, d_in), three tokens at least")
        x = x / np.sqrt((x**2).sum(1).mean())
        mean = x.mean(0)
        moments = {"raw": x.T @ x / len(x), "centred": (x - mean).T @ (x - mean) / len(x)}
        right = mean / np.linalg.norm(mean)
        principal = np.linalg.eigh(moments["centred"])[1][:, -1]
        up = principal - (principal @ right) * right
        plane = np.stack([right, up / np.linalg.norm(up)])
        places = x[np.linspace(0, len(x) - 1, min(dots, len(x))).astype(int)] @ plane.T
        if (places[:, 1] ** 3).sum() < 0:  # a singular vector has no sign of its own
            places[:, 1], plane[1] = -places[:, 1], -plane[1]
        shares = {name: m / np.trace(m) for name, m in moments.items()}
        super().__init__(
            {
                "points": rounded(places.tolist()),
                "mean": rounded(float(np.linalg.norm(mean))),
                # a needle n in the plane catches n S n of all the energy, the best direction of all d_in `best`
                "shares": {name: rounded((plane @ s @ plane.T).tolist(), 5) for name, s in shares.items()},
                "best": {name: rounded(float(np.linalg.eigvalsh(s)[-1]), 4) for name, s in shares.items()},
                "d_in": x.shape[1],
                "start": START,
            }
        )

    def caught(self, degrees, convention: str):
        """The share of the energy that a needle at that angle catches."""
        (a, b), (_, d) = self.data["shares"][convention]
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        return a * c * c + 2 * b * c * s + d * s * s

    def still(self) -> Picture:
        eva, muted, ink = style.MARKS["eva"], style.MUTED, style.INK
        points, mean = np.array(self.data["points"]), self.data["mean"]
        fig, (left, right) = style.figure(columns=2, height=3.3)
        left.plot(*points.T, "o", color=eva.line, markersize=2.5, alpha=0.6)
        left.plot(0, 0, "+", color=ink, markersize=9)
        c, s = np.cos(np.deg2rad(START)), np.sin(np.deg2rad(START))
        left.plot((-c, c), (-s, s), color=ink)
        left.plot(mean, 0, "D", color=ink, markersize=5)
        left.annotate("mean", (mean, 0), (6, -13), textcoords="offset points")
        left.set(title="inputs, and a needle", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
        angles = np.arange(181)
        for name, colour, width in (("raw", eva.light, 2.2), ("centred", muted, 1.3)):
            caught = 100 * self.caught(angles, name)
            right.plot(angles, caught, color=colour, linewidth=width)
            peak = int(caught.argmax())
            right.annotate(name, (peak, caught[peak]), (0, 4), textcoords="offset points", color=colour, ha="center")
        right.plot(START, 100 * self.caught(START, "raw"), "o", color=ink, markersize=7)
        right.set(
            title="energy caught (%)", xlabel="angle from the mean (degrees)", xticks=range(0, 181, 45), ylim=(0, None)
        )
        right.margins(y=0.15)
        best = {name: int(self.caught(angles, name).argmax()) for name in ("raw", "centred")}
        return Picture(
            fig,
            "Left, a cloud of inputs that lies to the right of the origin, and a needle through the origin. Right, the "
            f"share of energy that the needle catches, by its angle from the mean: the raw curve is highest at "
            f"{best['raw']} degrees, near the mean, the centred one at {best['centred']} degrees.",
            "The first frame. In the book, in JupyterLab and in Colab the needle can be turned and the cloud centred.",
        )
