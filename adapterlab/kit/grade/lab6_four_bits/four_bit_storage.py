"""Lab 6's graders of storage: nf4 by hand, and its bytes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..evidence import describe, draw, isolate
from ..verdict import Verdict, right, wrong

BLOCK = 64

# ---- nf4 by hand ----------------------------------------------------------------------------------


def matrix(rows: int = 12, columns: int = 192, positive: bool = False, on_levels: bool = False) -> Tensor:
    W = draw(3, rows, columns, dtype=torch.float32)
    if on_levels:
        nf4 = _levels()
        W = nf4[(W.abs() * 1e4).long() % 16]
        W.view(-1, BLOCK)[:, 0] = 1
    return W.abs() if positive else W


def _levels() -> Tensor:
    import bitsandbytes

    return bitsandbytes.functional.get_4bit_type("nf4", "cpu")


def given_back(W: Tensor) -> Tensor:
    import bitsandbytes

    return bitsandbytes.functional.dequantize_4bit(*bitsandbytes.functional.quantize_4bit(W, quant_type="nf4"))


def _shapes(found: Any, W: Tensor) -> str | None:
    """What is wrong with the kinds and shapes of what it returned."""
    pair = found if isinstance(found, (tuple, list)) and len(found) == 2 else None
    if pair is None or not all(isinstance(t, Tensor) for t in pair):
        return f"it returned {describe(found)}, where two tensors belong: the codes and the scales."
    codes, scales = pair
    if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.shape != W.shape:
        return f"the codes are {describe(codes)}, where whole numbers of shape {tuple(W.shape)} belong."
    if codes.min() < 0 or codes.max() > 15:
        return f"the codes go from {codes.min()} to {codes.max()}, and there are levels 0 to 15."
    if scales.numel() != W.numel() // BLOCK or not scales.isfinite().all():
        return (
            f"the scales are {describe(scales)}, where {W.numel() // BLOCK} finite numbers belong, one for each block."
        )
    return None


def to_nf4(answer: Callable) -> Verdict:
    W = matrix()
    wrong_shape = _shapes(answer(W.clone(), _levels()), W)
    if wrong_shape:
        one = matrix(1, BLOCK)
        again = _shapes(answer(one.clone(), _levels()), one)
        return wrong(
            tried=f"a matrix of {W.shape[0]} x {W.shape[1]}: {W.numel() // BLOCK} blocks of {BLOCK}, three to a row.",
            saw=wrong_shape,
            expected="a code for each weight, and a scale for each block of 64 neighbours.",
            experiment=f"I gave it a single block, 1 x 64: {again or 'there the kinds and the sizes are right.'}",
            question="How many blocks are there in a row, and how many in the matrix?",
            more=(
                "Lay the weights out with one block to a line before you do anything else.",
                "The scales are one number for each line of that layout; the codes go back to the shape of W.",
            ),
        )

    def miss(**change) -> float:
        """The share of the weights that come back farther from where they were than in bitsandbytes."""
        W = matrix(**change)
        codes, scales = answer(W.clone(), _levels())
        back = _levels()[codes.long()].reshape(-1, BLOCK) * scales.reshape(-1, 1).float()
        farther = (back.reshape(W.shape) - W).abs() > (given_back(W) - W).abs() + 1e-5
        return farther.double().mean().item()

    if miss() == 0:
        return right(
            "each weight comes back as near as in bitsandbytes, which stores the same: the largest of each block "
            "exactly, and every other on the nearest of the 16 levels."
        )
    codes, scales = answer(W.clone(), _levels())
    largest = W.reshape(-1, BLOCK).abs().amax(1)
    off = ((scales.reshape(-1).float() / largest - 1).abs() > 1e-4).double().mean().item()
    if not off:
        question = "Between two levels, from where on is the upper one nearer?"
    elif miss(positive=True) == 0:
        question = "What is the largest weight of a block of which all are negative?"
    else:
        question = "Which 64 weights share a scale, and which of them sets it?"
    scale = (
        f"{off:.0%} of the scales are not the size of the largest weight of their block." if off else "All scales fit."
    )
    return wrong(
        tried="a matrix of 12 x 192 normal numbers; I put codes and scales together and compared with bitsandbytes.",
        saw=f"{miss():.0%} of the weights come back farther from where they were than in bitsandbytes. {scale}",
        expected="none: every weight on the nearest level, in parts of the largest of its block.",
        experiment=isolate(
            miss,
            {
                "made all weights positive": {"positive": True},
                "gave it a single block, 1 x 64": {"rows": 1, "columns": BLOCK},
                "gave it weights that lie on the levels, with 1 as each block's largest": {"on_levels": True},
            },
        ),
        question=question,
        more=(
            "Check the two parts apart: first the scales, then the codes of weights that are divided by right scales.",
            "A scale is the largest absolute value of a block; a code is the place of the level that is nearest.",
        ),
    )


# ---- bytes ----------------------------------------------------------------------------------------


def found_bytes(d_out: int, d_in: int, nested: bool) -> int:
    """Of the codes and the scales of a layer that bitsandbytes has really stored."""
    from bitsandbytes import functional

    W = draw(1, d_out, d_in, dtype=torch.float32)
    data, state = functional.quantize_4bit(W, quant_type="nf4", compress_statistics=nested)
    scales = state.absmax.nbytes
    return data.nbytes + scales + (state.state2.absmax.nbytes + state.offset.nbytes if nested else 0)


def _growth(answer: Callable, nested: bool) -> str:
    """What a single block costs, and what the next one adds, by the answer and in truth."""

    def counted(count: Callable) -> str:
        one, two, short = (count(1, d_in, nested) for d_in in (BLOCK, 2 * BLOCK, BLOCK + 2))
        if not all(isinstance(n, (int, float)) for n in (one, two, short)):
            return "no numbers"
        return f"{one:g} for one block, {short - one:g} for two weights more, {two - one:g} for a second block"

    return f"I counted the smallest layers. Yours: {counted(answer)}. bitsandbytes: {counted(found_bytes)}."


def stored_bytes(answer: Callable) -> Verdict:
    shapes = [(384, 128), (64, 128), (512, 1024), (10, 30)]
    cases = [(*shape, nested) for nested in (False, True) for shape in shapes]
    for case in cases:
        seen, found = answer(*case), found_bytes(*case)
        if isinstance(seen, (int, float)) and not isinstance(seen, bool) and seen == found:
            continue
        d_out, d_in, nested = case

        n = d_out * d_in
        parts = f"{n:,} weights in {-(-n // BLOCK):,} blocks"
        return wrong(
            tried=f"a layer of {d_out} x {d_in}, {'nested' if nested else 'not nested'}: {parts}.",
            saw=f"you count {describe(seen)}.",
            expected=f"{found:,} bytes, which is what bitsandbytes holds for it.",
            experiment=_growth(answer, nested),
            question="What does a scale cost now, and what else has to be kept so that it can be read back?"
            if nested
            else "How many codes fit into a byte, and how many weights share the four bytes of a scale?",
            more=(
                "Count three things apart: codes, scales and, nested, what the scales themselves need. A block that is "
                "not full has a scale too.",
                "Nested, a scale is one byte; every 256 scales share a float32, and one float32 more holds their mean.",
            ),
        )
    return right(
        f"byte for byte what bitsandbytes holds, for {len(cases)} layers that are really stored, a last block that "
        "is not full among them."
    )
