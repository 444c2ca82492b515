"""What a PEFT folder holds of one layer, variant by variant, and who can read it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .. import style
from ..show import Picture
from .figure import Figure

# What a reader of the configuration needs; the rest is at its default.
FIELDS = ("peft_type", "r", "lora_alpha", "use_dora", "delora_lambda", "target_modules", "feedforward_modules")


def contents(folder: str | os.PathLike, layer: str) -> dict[str, Any]:
    """-> {"fields": of adapter_config.json, "tensors": [[name, shape], ...] of that layer, "layers": how many layers
    there are, "bytes": of adapter_model.safetensors}."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
    weights = Path(folder) / "adapter_model.safetensors"
    start = f"base_model.model.{layer}."
    with safe_open(weights, framework="pt") as file:
        names = sorted(file.keys())
        tensors = [[n.removeprefix(start), file.get_slice(n).get_shape()] for n in names if n.startswith(start)]
    if not tensors:
        raise ValueError(f"the folder holds nothing of {layer!r}, only such as {names[0]!r}")
    fields = {name: config[name] for name in FIELDS if name in config and config[name] not in (None, [], {}, False)}
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(fields.get(name), list):
            fields[name] = sorted(fields[name])
    return {
        "fields": fields,
        "tensors": tensors,
        "layers": len(names) // len(tensors),
        "bytes": weights.stat().st_size,
    }


class PeftFolder(Figure, js="peft_folder.js"):
    """Choose a variant and a form, and see the folder.

    Args:
        variants: one dict each, with `member` (a name of style.MARKS) and two forms, `own` and `lora`: either what
            `contents` gives with `readers` (who -> whether it reads the folder) added, or {"refused": the message}.
        layer: the last part of the path of the layer that is shown.
        shape: (d_out, d_in) of it.
    """

    def __init__(self, variants: Sequence[Mapping[str, Any]], layer: str, shape: tuple[int, int]):
        variants = [{"label": style.MARKS[one["member"]].label, **one} for one in variants]
        super().__init__({"variants": variants, "layer": layer, "shape": list(shape)})

    def still(self) -> Picture:
        fig, ax = style.figure(width=6.2, height=3.9)
        said = []
        forms = {"own": ("PEFT's own form", 0.2), "lora": ("an ordinary LoRA", -0.2)}
        variants = self.data["variants"][::-1]
        for y, one in enumerate(variants):
            mark = style.MARKS[one["member"]]
            words = []
            for form, (name, shift) in forms.items():
                found = one[form]
                if "refused" in found:
                    ax.text(8, y + shift, "no", va="center", fontsize=8.5, color=style.MUTED)
                    words.append(f"no {name}")
                    continue
                total = sum(numbers(shape) for _, shape in found["tensors"])
                hollow = {"facecolor": style.CARD, "edgecolor": mark.line} if form == "lora" else {"color": mark.line}
                ax.barh(y + shift, total, 0.34, linewidth=1.2, **hollow)
                ax.text(total + 20, y + shift, f"{total:,}", va="center", fontsize=8.5)
                words.append(f"{total:,} as {name}")
            said.append(f"{mark.label}: {', '.join(words)}")
        ax.set_yticks(range(len(variants)), [style.MARKS[one["member"]].label for one in variants])
        ax.set(
            xlabel=f"numbers in the folder for {self.data['layer']}: filled PEFT's own form, hollow an ordinary LoRA"
        )
        ax.xaxis.label.set_fontsize(8.5)
        ax.margins(x=0.12)
        return Picture(
            fig,
            f"How many numbers a PEFT folder holds for {self.data['layer']}. {'; '.join(reversed(said))}.",
            "Eight have a form of their own in PEFT, six can be written as an ordinary LoRA.",
        )


def numbers(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
