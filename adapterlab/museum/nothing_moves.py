"""Second room: what it computes is right, or would be; what it trains is not."""

from dataclasses import replace

from torch import nn

from ..variant import ParamSpec, kaiming
from ..variants import EVA, HRA, IA3, DeLoRA, LoRA
from .exhibit import Exhibit, broken

ROOM = "Nothing moves"


@broken
class Gated(HRA):
    def specs(self, d_in, d_out):
        return {
            "lora_U": ParamSpec((self.r, d_in), kaiming),
            "lora_gate": ParamSpec(()),  # 0: identity, whatever U is
        }

    def effective_weight(self, p, W, b):
        turned, b = super().effective_weight(p, W, b)
        return W + p.lora_gate * (turned - W), b

    def prepare(self, p, layer):
        TQ, Qt = super().prepare(p, layer)
        return p.lora_gate.to(TQ.dtype) * TQ, Qt


@broken
class StrengthZero(DeLoRA):
    lambda0: float = 0.0  # identity, whatever A and B are

    def __post_init__(self):
        pass  # DeLoRA refuses 0

    def specs(self, d_in, d_out):
        B = ParamSpec((d_out, self.r), kaiming, full_precision=True)
        return super().specs(d_in, d_out) | {"lora_B": B}


@broken
class FrozenA(EVA):
    def specs(self, d_in, d_out):
        specs = super().specs(d_in, d_out)
        return specs | {"lora_A": replace(specs["lora_A"], as_buffer=True)}  # "it is right already"


@broken
class WithDropout(LoRA):
    dropout: float = 0.1  # in the signature, in the file, and read by no line


@broken
class WideGates(IA3):
    """IA3 that does not store its gates in bfloat16, whatever it is asked."""

    def specs(self, d_in, d_out):
        return {"lora_g": ParamSpec((d_out,), nn.init.ones_, full_precision=True)}


DEAD = "some parameters never move"
FLAT = "flat loss"

EXHIBITS = [
    Exhibit(
        5,
        "hra-gate",
        "HRA behind a gate that starts at 0: the mirrors get no gradient",
        ROOM,
        DEAD,
        "hra",
        healthy=HRA(r=4),
        broken=Gated(r=4),
        lines=(Gated,),
        let_through="The tests asked whether some parameter has a gradient. The gate has.",
        passes=("identity", "dense"),
        caught_by=("gradients",),
        fix="Pairs of equal mirrors: the identity, and every row has a gradient.",
        source="A gate of 0 makes any adapter exact at t=0.",
    ),
    Exhibit(
        6,
        "delora-zero",
        "DeLoRA with a strength of 0: everything but the strength is dead",
        ROOM,
        FLAT,
        "delora",
        healthy=DeLoRA(r=4, lambda0=3.0),
        broken=StrengthZero(r=4),
        lines=(StrengthZero,),
        let_through="Some parameter has a gradient, and t=0 is exact.",
        passes=("identity", "dense"),
        caught_by=("gradients",),
        fix="Start B at zero, or subtract a copy of the start. The package refuses `lambda0=0`.",
        source="Identity by the nearest factor at hand.",
    ),
    Exhibit(
        10,
        "eva-frozen",
        "EVA keeps A frozen, where the reference trains it",
        ROOM,
        DEAD,
        "eva",
        healthy=EVA(r=4, alpha=6),
        broken=FrozenA(r=4, alpha=6),
        lines=(FrozenA,),
        let_through="The loss falls: B learns. Gradients were asked only of what is trained.",
        passes=("identity", "dense"),
        caught_by=("gradients",),
        fix="Name what the paper trains, and ask each whether it is trained.",
        source="An earlier version of this code did.",
        reference=EVA(r=4, alpha=6),
    ),
    Exhibit(
        13,
        "unread-field",
        "A field of the configuration that nobody reads",
        ROOM,
        "a setting changes nothing",
        "lora",
        healthy=LoRA(r=4, alpha=6),
        broken=WithDropout(r=4, alpha=6),
        lines=(WithDropout,),
        let_through="It is stored, printed, saved and loaded. Nothing asks what it does.",
        passes=("identity", "dense", "gradients", "reload"),
        caught_by=("fields",),
        fix="Every field changes tensors, output or gradient, or is refused.",
        source="An earlier version of this code had such a dropout.",
    ),
    Exhibit(
        21,
        "bf16-gates",
        "IA3's gates stored in bfloat16: each step is rounded away",
        ROOM,
        FLAT,
        "ia3",
        healthy=WideGates(),
        broken=IA3(),
        lines=(IA3.specs, WideGates.specs),
        let_through='Each gate has a gradient at each step. "The loss is flat, try more steps."',
        passes=("identity", "gradients"),
        caught_by=("moves",),
        fix="Gates in float32, whatever the base is in: attach's default, or `full_precision` for good.",
        source="`model.to(torch.bfloat16)` after attach. At a rate of 1e-3 every gate then is exactly 1 for ever.",
        lr=1e-3,
    ),
]
