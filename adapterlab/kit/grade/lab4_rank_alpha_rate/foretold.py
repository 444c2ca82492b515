"""rsLoRA's scale, and which U it moves."""

from collections.abc import Callable, Mapping

from ... import rates
from ..verdict import Verdict, right, wrong
from .us import NEAR, anchor, distance, entries, is_number, plain, points, recorded, step, tell, up_or_down

TRIED_SETTINGS = ((1, 16), (4, 16), (9, 16), (64, 16), (9, 5.0), (16, 128))


def scale(answer: Callable) -> Verdict:
    def expected(r, alpha, rslora):
        return rates.LoRA(r=r, alpha=alpha, rslora=rslora).layer_scale()

    cases = [(r, alpha, rslora) for r, alpha in TRIED_SETTINGS for rslora in (True, False)]
    seen = {case: plain(answer(*case)) for case in cases}
    bad = [c for c in cases if not is_number(seen[c]) or abs(seen[c] / expected(*c) - 1) > 1e-6]
    if not bad:
        return right("alpha / r without rsLoRA and alpha / sqrt(r) with it, equal at r = 1, for ranks up to 64.")
    r, alpha, rslora = case = max(bad, key=lambda c: (not is_number(seen[c]), c[0], c[2]))
    other = seen[r, alpha, not rslora]
    return wrong(
        tried=f"r = {r}, alpha = {alpha:g}, rslora = {rslora}.",
        saw=f"{tell(seen[case])}.",
        expected=f"{expected(*case):.4g}.",
        experiment=(
            f"I set rslora = {not rslora} with the same r and alpha: {tell(other)}, where "
            f"{expected(r, alpha, not rslora):.4g} belongs. At r = 1 I tried both: {tell(seen[1, 16, False])} and "
            f"{tell(seen[1, 16, True])}."
        ),
        question="At r = 1 the two rules agree. What does each divide alpha by when r is 64?",
        more=(
            "Only r is under the root, and alpha stands outside it.",
            "One rule for rslora=True, another for rslora=False: each is alpha divided by something that grows with r.",
        ),
    )


RULES = {
    "alpha / r": ("r = 1, alpha = 16", "r = 64, alpha = 16"),
    "alpha / sqrt(r)": ("r = 1, alpha = 16", "r = 64, alpha = 16, rsLoRA"),
}


def moves(answer) -> Verdict:
    if not isinstance(answer, Mapping) or not all(is_number(answer.get(rule)) for rule in RULES):
        return wrong(
            tried="to read a number of octaves for each of the two rules.",
            saw=f"{entries(answer, RULES, is_number)}.",
            expected="a number for each: 0 where the U stays, 1 where its centre doubles, -1 where it halves.",
            experiment=f"I looked for the keys {' and '.join(RULES)}, and one has no number.",
            question="Which of the two Us moves, and which way, as r goes from 1 to 64?",
            more=("A dictionary with these two keys.", "Numbers such as 0 or -1.5, no words and no rates."),
        )
    off = {
        rule: rates.octaves(recorded(first).centre * 2 ** answer[rule], recorded(last).floor)
        for rule, (first, last) in RULES.items()
    }
    score = points(off.values())
    worst = max(off, key=lambda rule: abs(off[rule]))
    if abs(off[worst]) <= NEAR:
        found = {rule: distance(recorded(last).centre, recorded(first).centre) for rule, (first, last) in RULES.items()}
        return right(
            f"measured, the centre moves by {found['alpha / r']:+.1f} octaves under alpha / r and by "
            f"{found['alpha / sqrt(r)']:+.1f} under alpha / sqrt(r), with Adam, on this model. rsLoRA keeps the norm "
            "of Adam's first dW as r grows, and lets the outputs move further; the U follows the outputs.",
            score=score,
        )
    first, last = RULES[worst]
    lr = anchor() / 8
    weights = step(last, lr).weights / step(first, lr).weights
    outputs = step(last, lr).outputs / step(first, lr).outputs
    return wrong(
        tried="to go from the recorded centre at r = 1 by as many octaves as you say, to the plateau at r = 64.",
        saw=f"{worst}: with {answer[worst]:+.1f} you end {abs(off[worst]):.2f} octaves {up_or_down(off[worst])} it.",
        expected=f"at most {NEAR} octaves outside the plateau; inside is full marks.",
        experiment=(
            f"I took one Adam step at r = 1 and at r = 64 under {worst}, at the same rate: norm(dW) went to "
            f"{weights:.2g} times, the change of the logits to {outputs:.2g} times."
        ),
        question="Which of these two quantities stays where the U stays, and which moves where it moves?",
        more=(
            "The centre goes down where a step at the same rate moves the outputs further.",
            "s r is alpha under one rule and alpha sqrt(r) under the other. The centre falls as the root of s r, as in "
            "the Us that you have foretold.",
        ),
        score=score,
    )
