"""IA3 for feed-forward layers · Liu et al. 2022, arXiv 2205.05638, section 3.3.  y' = base(g * x)."""

from dataclasses import dataclass

from torch import nn

from ..ops import arithmetic_dtype
from ..variant import ParamSpec, Variant, register


@register("ia3_ff")
@dataclass(frozen=True)
class IA3FF(Variant):
    """Scale each input feature of the layer: W' = W diag(g). The bias is not touched.

    For the last layer of a feed-forward block (down_proj, fc2), whose inputs are the hidden activations that
    the paper scales.

    Tensors: lora_g (d_in,), trained, ones at t=0.
    """

    side = "input"

    def specs(self, d_in, d_out):
        return {"lora_g": ParamSpec((d_in,), nn.init.ones_)}

    def effective_weight(self, p, W, b):
        return W * p.lora_g, b

    def prepare(self, p, layer):
        return (p.lora_g.to(arithmetic_dtype(p.lora_g.dtype)),)

    def forward(self, prepared, x, y):
        (g,) = prepared
        return (x * g).to(x.dtype)
