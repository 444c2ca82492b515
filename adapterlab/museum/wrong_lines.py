"""First room: one line is another formula, and at t=0 all formulas meet."""

from contextlib import contextmanager
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from ..variant import ParamSpec
from ..variants import HRA, IA3FF, DeLoRA, DoRA, LoRA
from ..weights import dense_weight
from .exhibit import Excerpt, Exhibit, broken, replaced

ROOM = "The wrong line"


@broken
class ScalesBias(DoRA):
    def prepare(self, p, layer):
        *rest, bias = super().prepare(p, layer)
        return *rest, None  # the layer's whole output is scaled, and the bias with it


@broken
class AlongDim0(DoRA):
    def specs(self, d_in, d_out):
        return super().specs(d_in, d_out) | {"lora_m": ParamSpec((d_in,), full_precision=True)}

    def derive(self, p, layer):
        return {}

    def init(self, p, layer):
        p.lora_m.copy_(dense_weight(layer).to(p.lora_m.dtype).norm(dim=0))

    def effective_weight(self, p, W, b):
        V = W + p.scale * p.lora_B @ p.lora_A
        return p.lora_m / V.detach().norm(dim=0) * V, b

    def prepare(self, p, layer):
        W = dense_weight(layer).to(p.lora_m.dtype)
        return (self.effective_weight(p, W, None)[0] - W,)

    def forward(self, prepared, x, y):
        return (y + F.linear(x.to(prepared[0].dtype), *prepared)).to(y.dtype)


@broken
class WrongOrder(HRA):
    def prepare(self, p, layer):
        TQ, Qt = super().prepare(p, layer)
        return Qt.t(), TQ.t()  # x R, where W' = W R asks for x R^T


@broken
class ScalarNorm(DeLoRA):
    def init(self, p, layer):
        p.lora_wnorm.fill_(dense_weight(layer).float().norm())  # one number, where PEFT has one per column


@broken
class OutputGate(IA3FF):
    side: ClassVar[str] = "output"

    def specs(self, d_in, d_out):
        return {"lora_g": ParamSpec((d_out,), nn.init.ones_)}

    def forward(self, prepared, x, y):
        return (y * prepared[0]).to(y.dtype)  # "IA3 multiplies by g"


@broken
class NoScale(LoRA):
    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, 1.0  # and not alpha / r


def as_before_review(self, x, *, base_layer, **rest):
    """PEFT's DoRA of a convolution, which takes the base's output as it comes, bias and all."""
    bias, base_layer.bias = base_layer.bias, None
    try:
        return self.usual_forward(x, base_layer=base_layer, **rest)
    finally:
        base_layer.bias = bias


@contextmanager
def before_review():
    from peft.tuners.lora.dora import _DoraConvNdLayer as Layer

    Layer.usual_forward = Layer.forward
    try:
        with replaced(Layer, "forward", as_before_review):
            yield
    finally:
        del Layer.usual_forward


def conv_forward():
    from peft.tuners.lora.dora import _DoraConvNdLayer

    return _DoraConvNdLayer.forward


SERVED = "fine here, wrong when served"

EXHIBITS = [
    Exhibit(
        1,
        "dora-bias",
        "DoRA scales the bias with the rows",
        ROOM,
        SERVED,
        "dora",
        healthy=DoRA(r=4, alpha=6),
        broken=ScalesBias(r=4, alpha=6),
        lines=(ScalesBias,),
        let_through="At t=0 the factor `m / |V|` is exactly 1; and most language models have no biases.",
        passes=("identity", "restores", "reload"),
        caught_by=("bias",),
        fix="Take the bias out of the output before it is scaled.",
        source="Working on the layer's whole output is shorter, and all that a hook is given.",
    ),
    Exhibit(
        2,
        "dora-axis",
        "DoRA takes its norm along the wrong axis",
        ROOM,
        SERVED,
        "dora",
        healthy=DoRA(r=4, alpha=6),
        broken=AlongDim0(r=4, alpha=6),
        lines=(AlongDim0,),
        let_through="`m / |V|` is 1 at t=0 along either axis; fast path and equation agree with each other.",
        caught_by=("dense",),
        fix="One norm per output feature: `dim=1` in PyTorch's layout, whatever the paper's layout calls it.",
        source="The paper's word is column-wise, of the transposed matrix: https://github.com/catid/dora/issues/4",
        reference=DoRA(r=4, alpha=6),
    ),
    Exhibit(
        3,
        "hra-order",
        "HRA meets its mirrors in the wrong order",
        ROOM,
        SERVED,
        "hra",
        healthy=HRA(r=4),
        broken=WrongOrder(r=4),
        lines=(WrongOrder,),
        let_through="Equal mirrors in pairs: R and its transpose are both I at t=0, in any order.",
        passes=("identity", "restores", "reload"),
        caught_by=("dense",),
        fix="The input meets the transpose: the last mirror comes first.",
        source="A plain `for u in U` over the rows does it.",
    ),
    Exhibit(
        7,
        "delora-norm",
        "DeLoRA with one norm for the whole weight, said to follow PEFT",
        ROOM,
        SERVED,
        "delora",
        healthy=DeLoRA(r=4, lambda0=3.0),
        broken=ScalarNorm(r=4, lambda0=3.0),
        lines=(ScalarNorm,),
        let_through="B = 0 is the identity under any norm, and the loss still falls.",
        passes=("identity", "restores", "reload"),
        caught_by=("dense",),
        fix='Say which: `norm="column"` is PEFT\'s, `norm="scalar"` the paper\'s eq. 8, and a file carries its own.',
        source="Two definitions under one name, paper and PEFT; neither is a bug until one serves the other's file.",
        reference=DeLoRA(r=4, lambda0=3.0),
    ),
    Exhibit(
        12,
        "ia3-side",
        "IA3's feed-forward gate on the output instead of the input",
        ROOM,
        SERVED,
        "ia3_ff",
        healthy=IA3FF(),
        broken=OutputGate(),
        lines=(OutputGate,),
        let_through="A gate of 1 is the identity on either side, and on a square layer even the shapes agree.",
        passes=("identity", "restores", "reload"),
        caught_by=("dense",),
        fix="As many gates as the layer has inputs, multiplied before the layer.",
        source="PEFT's IA3Config decides it by `feedforward_modules`; a pattern that matches nothing is no error.",
    ),
    Exhibit(
        17,
        "lora-scale",
        "LoRA without alpha / r",
        ROOM,
        SERVED,
        "lora",
        healthy=LoRA(r=4, alpha=6),
        broken=NoScale(r=4, alpha=6),
        lines=(NoScale,),
        let_through="With r = alpha, as tests like to have it, the scale is 1.",
        passes=("identity", "restores", "reload"),
        caught_by=("dense", "fields"),
        fix="Test with r and alpha unequal, always.",
        source="The same test let PEFT's merge of LoRA biases through: https://github.com/huggingface/peft/pull/2489",
    ),
    Exhibit(
        18,
        "dora-convolution",
        "DoRA for convolutions forgets the bias that its code for linear layers handles",
        ROOM,
        SERVED,
        "dora",
        healthy="peft:dora",
        broken="peft:dora",
        lines=(Excerpt(conv_forward, "bias = base_layer.bias", "base_result = base_result - bias"),),
        let_through="Every test had linear layers, for which it is right.",
        passes=("dense", "bias"),
        caught_by=("layers",),
        fix="One contract for every kind of layer. The lines are PEFT's today; the bug is their absence.",
        source="Found in review: https://github.com/huggingface/peft/pull/2371",
        patch=before_review,
    ),
]
