"""IA3 · Liu et al. 2022, arXiv 2205.05638, section 3.3.  y' = g * y: one trained gate per output feature."""

from dataclasses import dataclass

from torch import nn

from ..ops import arithmetic_dtype
from ..variant import ParamSpec, Variant, register


@register("ia3")
@dataclass(frozen=True)
class IA3(Variant):
    """Scale each output feature of the layer, the bias included: W' = diag(g) W, b' = g * b.

    The paper gates k_proj and v_proj so, and the input of the feed-forward's last layer with `IA3FF`; two
    attach passes make its recipe.

    Tensors: lora_g (d_out,), trained, ones at t=0.
    """

    def specs(self, d_in, d_out):
        return {"lora_g": ParamSpec((d_out,), nn.init.ones_)}

    def effective_weight(self, p, W, b):
        return p.lora_g[:, None] * W, None if b is None else p.lora_g * b

    def prepare(self, p, layer):
        return (p.lora_g.to(arithmetic_dtype(p.lora_g.dtype)),)

    def forward(self, prepared, x, y):
        (g,) = prepared
        return (y * g).to(y.dtype)  # one pass, rounded once
