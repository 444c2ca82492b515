"""EVA's second choice: how many directions each layer gets when all layers share one budget."""

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

    def still(self) -> Picture:
        r = self.data["most"][0] // 2
        ranks = self.ranks(r, 2)
        fig, ax = style.figure(height=2.9)
        ax.bar(range(len(ranks)), ranks.values(), color=style.MARKS["eva"].line, width=0.8)
        ax.axhline(r, color=style.INK, linewidth=1)
        ax.set(title=f"rank of each layer, r = {r}, rho = 2", ylabel="rank", xticks=[], xlabel="layer, in model order")
        ax.grid(axis="x", visible=False)
        low, high = min(ranks.values()), max(ranks.values())
        return Picture(
            fig,
            f"A bar for each of {len(ranks)} layers: ranks from {low} to {high} about the line of equal ranks at {r}.",
            "The line: equal ranks. In the book, in JupyterLab and in Colab rank, rho and the mean can be changed.",
        )
