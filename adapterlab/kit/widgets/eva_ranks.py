"""EVA's second choice: how many directions each layer gets from one budget, and how much they explain there."""

from collections.abc import Mapping, Sequence

from .. import style
from ..show import Picture
from .figure import Figure, rounded


class EvaRanks(Figure, js="eva_ranks.js"):
    """Ranks that pour between layers at a fixed budget, by what each direction explains.

    Args:
        shares: module path -> {"raw": [...], "centred": [...]}: the share of a layer's energy (of its variance)
            that each of its directions explains, largest first.
        sizes: module path -> d_in + d_out, what one direction costs in trained parameters.
        most: the largest rank and rho that can be chosen.
    """

    def __init__(self, shares: Mapping[str, Mapping[str, Sequence[float]]], sizes: Mapping[str, int], most=(8, 3)):
        if set(shares) != set(sizes):
            raise ValueError("shares and sizes must be of the same layers")
        directions = most[0] * most[1]
        short = [path for path, kinds in shares.items() if min(map(len, kinds.values())) < directions]
        if short:
            raise ValueError(f"{short[0]!r} has fewer than {directions} directions")
        spectra, layers = [], []  # layers that share their inputs share a spectrum
        for path, kinds in shares.items():
            both = [rounded([float(v) for v in kinds[name][:directions]], 6) for name in ("raw", "centred")]
            if both not in spectra:
                spectra.append(both)
            layers.append([path, spectra.index(both), int(sizes[path])])
        super().__init__({"spectra": spectra, "layers": layers, "most": list(most)})

    def ranks(self, r: int, rho: float, convention: str = "raw") -> dict[str, int]:
        """path -> rank, as the package gives them."""
        column = ("raw", "centred").index(convention)
        kept = dict.fromkeys((path for path, *_ in self.data["layers"]), 0)
        offers = [
            (-share, path)
            for path, spectrum, _ in self.data["layers"]
            for share in self.data["spectra"][spectrum][column][: int(rho * r + 1e-9)]
        ]
        for _, path in sorted(offers)[: r * len(kept)]:
            kept[path] += 1
        return kept

    def explained(self, ranks: Mapping[str, int], convention: str = "raw") -> dict[str, float]:
        """path -> the share of the layer's energy (of its variance) that so many of its directions explain."""
        column = ("raw", "centred").index(convention)
        return {
            path: sum(self.data["spectra"][spectrum][column][: ranks[path]])
            for path, spectrum, _ in self.data["layers"]
        }

    def still(self) -> Picture:
        r = self.data["most"][0] // 2
        ranks = self.ranks(r, 2)
        here, level = (list(self.explained(given).values()) for given in (ranks, dict.fromkeys(ranks, r)))
        fig, (left, right) = style.figure(columns=2, height=2.9)
        left.bar(range(len(ranks)), ranks.values(), color=style.MARKS["eva"].line, width=0.8)
        left.axhline(r, color=style.INK, linewidth=1)
        left.set(title=f"rank of each layer, r = {r}, rho = 2")
        right.bar(range(len(ranks)), [100 * share for share in here], color=style.MARKS["eva"].line, width=0.8)
        right.hlines(
            [100 * share for share in level], *zip(*((i - 0.5, i + 0.5) for i in range(len(ranks)))), style.INK
        )
        right.set(title="energy it explains (%)", ylim=(0, 100))
        for ax in (left, right):
            ax.set(xticks=[], xlabel="layer, in model order")
            ax.grid(axis="x", visible=False)
        low, high = min(ranks.values()), max(ranks.values())
        return Picture(
            fig,
            f"Left, a bar for each of {len(ranks)} layers: ranks from {low} to {high} about the line of equal ranks at "
            f"{r}. Right, how much of a layer's energy they explain: {100 * min(here):.0f} to {100 * max(here):.0f} %; "
            f"with equal ranks {100 * min(level):.0f} to {100 * max(level):.0f} %.",
            "Lines: equal ranks. In the book, in JupyterLab and in Colab rank, rho and the mean can be changed.",
        )
