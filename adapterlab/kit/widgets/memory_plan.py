"""What each variant needs on each GPU, by the planner, for three models and the reader's machines."""

from .. import plans, style
from ..plans import BASES, GPUS, NAMES
from ..show import Picture
from .figure import Figure

TOKENS = [512, 1024, 2048, 4096, 8192, 16_384]
MODELS = {"llama-3.2-1b": "1B", "llama-3.1-8b": "8B", "llama-3.1-70b": "70B"}
CARDS = [24, 40, 80, 141]  # GB
PARTS = {
    "weights": "frozen weights",
    "trained": "adapter, its gradients, Adam",
    "activations": "activations",
    "transient": "what comes and goes",
}


class MemoryPlan(Figure, js="memory_plan.js"):
    """The reader sets the model, the GPUs and the length of a row, and sees which card holds which variant.

    Raises:
        ValueError: a start is none of the stops.
    """

    def __init__(
        self,
        model: str = "llama-3.1-70b",
        gpus: int = 8,
        engine: str = "fsdp2",
        base: str = "bf16",
        tokens: int = 2048,
        checkpointing: bool = True,
    ):
        stops = {"model": list(MODELS), "gpus": GPUS, "engine": ["ddp", "fsdp2"], "base": BASES}
        stops["tokens"] = TOKENS
        start = {"model": model, "gpus": gpus, "engine": engine, "base": base, "tokens": tokens}
        for name, value in start.items():
            if value not in stops[name]:
                raise ValueError(f"{name} = {value!r}: choose one of {stops[name]}")
        variants = [[name, style.MARKS[name].label] for name in NAMES]
        start["checkpointing"] = checkpointing
        super().__init__(
            {
                "models": [[name, label] for name, label in MODELS.items()],
                "sizes": plans.recorded()["sizes"],
                "variants": variants,
                "parts": [[name, words] for name, words in PARTS.items()],
                "cards": CARDS,
                "stops": stops,
                "start": start,
            }
        )

    def parts(self) -> dict[str, dict[str, int]]:
        """Variant -> bytes of each part in the first frame."""
        return {name: plans.parts(name=name, **self.data["start"]) for name in NAMES}

    def still(self) -> Picture:
        start, found = self.data["start"], self.parts()
        fig, ax = style.figure(height=3.6)
        for y, (name, one) in enumerate(found.items()):
            left = 0.0
            for value, look in (
                (one["weights"], {"color": style.MUTED}),
                (one["trained"], {"color": style.MARKS[name].line}),
                (one["activations"], {"color": style.MUTED, "alpha": 0.5}),
                (
                    one["transient"],
                    {"facecolor": style.CARD, "edgecolor": style.MUTED, "hatch": "////", "linewidth": 0.8},
                ),
            ):
                ax.barh(y, value / 1e9, left=left / 1e9, height=0.62, label=None, **look)
                left += value
            ax.text(left / 1e9, y, f" {left / 1e9:.3g}", va="center", fontsize=8)
        totals = {name: sum(one.values()) / 1e9 for name, one in found.items()}
        most = max(totals.values())
        for card in CARDS:
            if card <= 1.3 * most:
                ax.axvline(card, color=style.INK, linestyle=":", linewidth=1)
        ax.set(xlabel="GB on each GPU", yticks=range(len(found)), ylim=(len(found) - 0.5, -0.5), xlim=(0, 1.12 * most))
        ax.set_yticklabels([style.MARKS[name].label for name in found])
        low, high = (f(totals, key=totals.get) for f in (min, max))
        where = f"the {MODELS[start['model']]} base on {start['gpus']} GPUs, with rows of {start['tokens']} tokens"
        return Picture(
            fig,
            f"A bar for each variant, for {where}. The shortest is {style.MARKS[low].label}'s with "
            f"{totals[low]:.3g} GB, the longest {style.MARKS[high].label}'s with "
            f"{totals[high]:.3g} GB.",
            "Dark grey: frozen weights. In colour: the adapter, its gradients and Adam's moments. Pale: activations. "
            "Hatched: what comes and goes. The first frame; in the book, in JupyterLab and in Colab the machines are "
            "yours.",
        )
