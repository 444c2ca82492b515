"""What a training step needs, by four sums, and who can say so."""

import math
from collections.abc import Callable

from ...real_model import Sizes
from ..evidence import describe
from ..verdict import Verdict, right, wrong

GIB = 2**30
LARGE = Sizes(parameters=600_000_000, trained=2_000_000, kept=3_000_000, vocabulary=150_000)
TOKENS = 700


def planned(size: Sizes, tokens: int) -> int:
    """Bytes of a training step in float32: weights; weight, gradient and two moments of what is trained; what is kept,
    and the logits three times: themselves, their log-softmax, and a gradient."""
    return 4 * size.parameters + 16 * size.trained + tokens * (size.kept + 12 * size.vocabulary)


def memory(answer: Callable) -> Verdict:
    nothing = Sizes(0, 0, 0, 0)
    parts = {
        "a frozen base of 600 million numbers and nothing else": (Sizes(600_000_000, 0, 0, 0), 0),
        "2 million trained numbers and nothing else": (Sizes(0, 2_000_000, 0, 0), 0),
        "what 700 tokens keep, and nothing else": (Sizes(0, 0, 3_000_000, 0), TOKENS),
        "the logits of 700 tokens over 150,000 words, and nothing else": (Sizes(0, 0, 0, 150_000), TOKENS),
    }
    asks = {
        0: "How many bytes has a number in float32? Does a frozen one need a gradient?",
        1: "What does AdamW remember of every trained number, beside the number and its gradient?",
        2: "kept is of one token. What is it of a batch?",
        3: "How often are the logits there at once, and how large is a number of them?",
    }
    whole = answer(LARGE, TOKENS)
    if not isinstance(whole, (int, float)) or isinstance(whole, bool):
        return wrong(
            tried=f"a base of 600 million numbers, 2 million trained ones and {TOKENS} tokens.",
            saw=f"{describe(whole)}.",
            expected="a number of bytes.",
            experiment=f"I gave it a model of size 0, and it returned {describe(answer(nothing, 0))}.",
            question="What does the function return?",
            more=("Add four parts up, and return the sum.", "The four parts are named in the docstring."),
        )
    for k, (what, (size, tokens)) in enumerate(parts.items()):
        seen, expected = answer(size, tokens), planned(size, tokens)
        if not math.isclose(seen, expected, rel_tol=1e-6):
            rest = planned(LARGE, TOKENS) - expected
            others = "right" if math.isclose(whole - seen, rest, rel_tol=1e-3) else "not right either"
            return wrong(
                tried=f"{what}.",
                saw=f"{seen / GIB:.3f} GiB.",
                expected=f"{expected / GIB:.3f} GiB.",
                experiment=f"I took this part out of the whole, and the other three are {others}: "
                f"{(whole - seen) / GIB:.2f} GiB, where {rest / GIB:.2f} belong.",
                question=asks[k],
                more=(
                    "Each part is a product of a count and of bytes per count; find the count first.",
                    "float32 has 4 bytes. A trained number is there four times over, a logit three times, a frozen "
                    "number once; what is kept is in bytes already.",
                ),
            )
    if not math.isclose(whole, planned(LARGE, TOKENS), rel_tol=1e-6):
        return wrong(
            tried="all four parts together.",
            saw=f"{whole / GIB:.2f} GiB.",
            expected=f"{planned(LARGE, TOKENS) / GIB:.2f} GiB, the sum of the parts, each of which is right.",
            experiment=f"I doubled the tokens, and the whole became {answer(LARGE, 2 * TOKENS) / GIB:.2f} GiB.",
            question="Do the parts stand beside each other, or does one of them multiply another?",
            more=("They are all there at the same moment.", "Add them."),
        )
    return right(
        "weights once, trained numbers four times, what is kept by the token, and the logits three times. With the "
        "vocabulary that I tried, that last part is half as large as the base."
    )
