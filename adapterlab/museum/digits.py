"""Fifth room: the formula is right, and the numbers run out of digits or of range."""

from ..ops import arithmetic_dtype
from ..variants import DeLoRA, DoRA
from ..variants.delora import LEAST
from ..weights import dense_weight, merged_dtype, times
from .exhibit import Excerpt, Exhibit, broken

ROOM = "Out of digits"


@broken
class BaseArithmetic(DeLoRA):
    def prepare(self, p, layer):
        dtype = merged_dtype(layer)  # the base's, and not float32
        A, B, strength, wnorm = (t.to(dtype) for t in (p.lora_A, p.lora_B, p.lora_lambda, p.lora_wnorm))
        norms = A.norm(dim=1).clamp(min=LEAST) * B.norm(dim=0).clamp(min=LEAST)
        return A * wnorm, B * (strength / len(A) / norms)


@broken
class GramAlone(DoRA):
    def _norm(self, p, layer):
        W, A, B, s = dense_weight(layer), p.lora_A.detach(), p.lora_B.detach(), p.scale
        dtype = arithmetic_dtype(A.dtype)
        row_sq = self.derive(p, layer)["row_sq"] if p.row_sq is None else p.row_sq
        A, B = A.to(dtype), B.to(dtype)
        cross = (times(W, A.t()) * B).sum(1)
        own = (B @ (A @ A.t()) * B).sum(1)
        norm_sq = row_sq + 2 * s * cross + s * s * own  # whatever is left of the digits
        return norm_sq.clamp(min=0).sqrt()


def dora_init():
    from peft.tuners.lora.dora import DoraLinearLayer

    return DoraLinearLayer.get_weight_norm


EXHIBITS = [
    Exhibit(
        8,
        "delora-fp16",
        "DeLoRA in float16 at B = 0: the scale overflows, and inf · 0 is NaN",
        ROOM,
        "NaN at step 0",
        "delora",
        healthy=DeLoRA(r=4),
        broken=BaseArithmetic(r=4),
        lines=(BaseArithmetic,),
        let_through="Forward alone, in float32, at r of 8 and more: there `lambda / (r 1e-4 |a|)` still fits.",
        passes=("dense", "gradients"),
        caught_by=("finite",),
        fix="All arithmetic in float32 at least, cast at the end.",
        source="PEFT's layer with parameters in float16 does it; its default keeps them in float32.",
    ),
    Exhibit(
        26,
        "dora-bf16",
        "PEFT's DoRA on a bfloat16 base is no identity",
        ROOM,
        "worse than the base before the first step",
        "dora",
        healthy=DoRA(r=4, alpha=6),
        broken="peft:dora",
        lines=(Excerpt(dora_init, "weight_norm =", "weight_norm ="),),
        let_through="Identity was tested in float32, where it is exact.",
        passes=("dense", "gradients"),
        caught_by=("identity",),
        fix="m in float32 at least, from the routine that computes |V|.",
        source="PEFT 0.21.2, measured: m is rounded to the base's dtype, and the norm that divides it is not.",
    ),
    Exhibit(
        27,
        "gram-cancels",
        "DoRA's norm by the Gram form alone, where W + sBA nearly cancels",
        ROOM,
        "wrong where the update undoes the weight",
        "dora",
        healthy=DoRA(r=4, alpha=6),
        broken=GramAlone(r=4, alpha=6),
        lines=(GramAlone,),
        let_through="Random weights never cancel.",
        passes=("identity", "dense", "bias", "gradients"),
        caught_by=("cancels",),
        fix="Form those few rows after all.",
        source="Met while writing this package's fast path: three large terms leave a small one.",
    ),
]
