"""Third room: the start is not the one that was promised, or the first step is none."""

from ..variant import ParamSpec, check_rank, kaiming
from ..variants import HRA, DeLoRA, PiSSA
from .exhibit import Excerpt, Exhibit, broken

ROOM = "The start, and the first step"


def pairs_and_one(U):
    """HRA's equal pairs, and for an odd r one row that is left over."""
    half = U.new_empty((len(U) + 1) // 2, U.shape[1])
    kaiming(half)
    U.copy_(half.repeat_interleave(2, dim=0)[: len(U)])


@broken
class AnyRank(HRA):
    def __post_init__(self):
        check_rank(self.r)  # and odd ones are not refused

    def specs(self, d_in, d_out):
        return {"lora_U": ParamSpec((self.r, d_in), pairs_and_one)}


def hra_gram_schmidt():
    from peft import HRAConfig

    return HRAConfig(r=4, apply_GS=True, target_modules=["proj", "last"])


def gram_schmidt():
    from peft.tuners.hra.layer import HRALayer, HRALinear

    return getattr(HRALinear, "get_delta_weight", None) or HRALayer.get_delta_weight


def pissa(start):
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=4, init_lora_weights=start, target_modules=["proj", "last"])


def pissa_exact():
    return pissa("pissa")


def pissa_niter():
    return pissa("pissa_niter_4")


def randomised_svd():
    from peft.tuners.lora.layer import LoraLayer

    return LoraLayer.pissa_init


OTHER = "worse than the base before the first step"

EXHIBITS = [
    Exhibit(
        4,
        "hra-odd",
        "HRA with an odd r: one mirror is left over",
        ROOM,
        OTHER,
        "hra",
        healthy=HRA(r=4),
        broken=AnyRank(r=4),
        lines=(pairs_and_one, AnyRank),
        let_through="Every test used an even r.",
        passes=("identity", "dense", "gradients"),
        caught_by=("ranks",),
        fix="An odd r is refused, by name and number.",
        source="PEFT warns and starts at random instead; a random start is no identity either.",
    ),
    Exhibit(
        9,
        "delora-cliff",
        "DeLoRA from B = 0: the first step is as long at any learning rate",
        ROOM,
        "the loss jumps at the first step",
        "delora",
        healthy=DeLoRA(r=4, lambda0=3.0, start="copy"),
        broken=DeLoRA(r=4, lambda0=3.0, start="zero"),
        lines=(DeLoRA._factors,),
        let_through="Nobody plots the first step. After it the curve looks like any other.",
        passes=("identity", "dense"),
        caught_by=("first_step",),
        fix="Where it hurts, the paper's start: random, less a frozen copy of itself. A choice of PEFT's and no bug.",
        source="The direction of b is noise of length lambda as soon as b is not 0. "
        "[arXiv 2503.18225](https://arxiv.org/abs/2503.18225), section 2.2.",
    ),
    Exhibit(
        19,
        "hra-gram-schmidt",
        "PEFT's HRA with `apply_GS`: no identity, and NaN in low precision",
        ROOM,
        "NaN at step 0",
        "hra",
        healthy=HRA(r=4),
        broken=hra_gram_schmidt,
        lines=(Excerpt(gram_schmidt, "if apply_GS", "weight = torch.eye"),),
        let_through="`apply_GS` was never run at its start, where equal rows come in pairs: their difference is 0 / 0.",
        passes=(),
        caught_by=("identity", "finite"),
        fix="Do not orthonormalise equal rows; start from rows that differ, or leave pairs alone.",
        source="PEFT 0.21.2, measured.",
    ),
    Exhibit(
        23,
        "pissa-niter",
        "PEFT's `pissa_niter_4`: not the principal directions",
        ROOM,
        "another score than the paper's, with everything as in the paper",
        "pissa",
        healthy=pissa_exact,
        broken=pissa_niter,
        lines=(Excerpt(randomised_svd, "svd_lowrank(", ")"),),
        let_through='What is taken out is added again, so t=0 holds for any A and B. "About right" was not measured.',
        passes=("dense", "gradients"),
        caught_by=("start",),
        fix="Oversample: ask the randomised SVD for more than r directions and keep r; or take the exact one.",
        source="PEFT 0.21.2 asks `torch.svd_lowrank` for exactly r. On few iterations: "
        "[arXiv 2404.02948](https://arxiv.org/abs/2404.02948), appendix B.",
        reference=PiSSA(r=4, alpha=4),
    ),
]
