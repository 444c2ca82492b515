"""Answers for lab 9."""

import torch

import adapterlab as al
from adapterlab.kit import tasks, triage

# ---- lost -----------------------------------------------------------------------------------------


def served_less_own(case):
    return case.score(case.serve()) - case.curve.exact_match


def of_the_base(case):
    return case.curve.exact_match - case.score(triage.base())


def on_what_it_was_trained_on(case):
    return case.curve.exact_match - case.score(case.serve(), case.trained)


def first_of_the_curve(case):
    return case.curve.evaluations[0][1] - case.score(case.serve())


def nothing_back(case):
    case.score(case.serve())


def last_row_of_the_curve(case):
    model = triage.base()
    al.load(model, case.path)
    return torch.tensor(case.curve.evaluations[-1][1] - case.score(model))


# ---- evidence -------------------------------------------------------------------------------------


def changed(case, change):
    model = case.serve()
    with torch.no_grad():
        for layer in case.layers(model):
            change(layer.adapter)
    return case.score(model)


def lost(case):
    return case.curve.exact_match - case.score(case.serve())


def round_and_back(case):
    """The score with the mirrors turned round, whatever it was before: high for every healthy adapter too."""
    return changed(case, lambda p: hasattr(p, "lora_U") and p.lora_U.copy_(p.lora_U.flip(0)))


def mirrors(case):
    if not case.named("lora_U"):
        return 0.0
    served = case.score(case.serve())
    return round_and_back(case) > served + 0.2


def kind(case):
    return float(bool(case.named("lora_U")))


def scale_is_not_one(case):
    return max(facts["scale"] for entry in case.header["passes"] for facts in entry["layers"].values())


def a_quarter(case):
    """B a quarter as large, where alpha / r is 4; elsewhere nothing is done."""
    if {entry["variant"] for entry in case.header["passes"]} != {"lora"}:
        return 0.0
    return changed(case, lambda p: p.lora_B.div_(p.scale)) - case.score(case.serve())


def upside_down(case):
    return -a_quarter(case)


def always_one(case):
    return 1.0


def by_its_label(case):
    return float(case.name == "case 1")


def a_word(case):
    return "yes"


def no_file_has_it(case):
    return case.named("lora_U")[0].norm()


def by_prompts(case):
    """Right on the trained ones, wrong on held-out ones of its own choice."""
    model, others = case.serve(), tasks.get("add_rev").examples(64, seed=5, held_out=True)
    return case.score(model, case.trained) - case.score(model, tuple(others))


def on_trained_alone(case):
    return case.score(case.serve(), case.trained)


def own_minus_trained(case):
    return case.curve.exact_match - case.score(case.serve(), case.trained)


def start_in_the_row_space(case):
    """How much of W's largest direction is missing from the rows of A0."""
    if not case.named("lora_A0"):
        return 0.0
    model, missing = case.serve(), 0.0
    for layer in case.layers(model):
        if hasattr(layer.adapter, "lora_A0"):
            v = torch.linalg.svd(layer.weight.detach())[2][0]
            Q = torch.linalg.qr(layer.adapter.lora_A0.T)[0]
            missing = max(missing, 1 - (v @ Q).norm().item())
    return missing


def another_first_score(case):
    """At t=0 an adapter scores what its base scores."""
    return abs(case.curve.evaluations[0][1] - case.score(triage.base()))


def has_a_start(case):
    return len(case.named("lora_A0"))


def away_from_the_start(case):
    """norm(A - A0): every trained PiSSA is away from it."""
    return sum((A - A0).norm().item() for A, A0 in zip(case.named("lora_A"), case.named("lora_A0")))


def still_right_angles(case):
    if "eva" not in {entry["variant"] for entry in case.header["passes"]}:
        return 0.0
    angles = [torch.nn.functional.normalize(A, dim=1) for A in case.named("lora_A")]
    worst = max((A @ A.T - torch.eye(len(A))).abs().max().item() for A in angles)
    return 1 - worst if worst < 0.01 else 0.0


def small_update(case):
    model = case.serve()
    return -sum((al.effective_weight(layer)[0] - layer.weight).norm().item() for layer in case.layers(model))


def last_bits(case):
    """The share of numbers whose lower 16 bits of float32 are all zero."""
    bits = torch.cat([t.flatten() for t in case.tensors.values()]).view(torch.int32)
    return (bits % 2**16 == 0).float().mean()


def has_sizes(case):
    return sum(m.mean().item() for m in case.named("lora_m"))


def in_float16(case):
    values = torch.cat([t.flatten() for t in case.tensors.values()])
    return (values - values.half()).abs().mean().item()


# ---- diagnose -------------------------------------------------------------------------------------


def by_variant(case):
    names = {"HRA": "mirrors", "PiSSA": "base", "EVA": "frozen", "DoRA": "bfloat16"}
    return names.get(case.variants.split("(")[0], "scale" if lost(case) > 0.2 else "healthy")


def all_healthy(case):
    return "healthy"


def none_healthy(case):
    if lost(case) < 0.2:
        return "bfloat16" if last_bits(case) > 0.9 else "frozen"
    return "scale" if a_quarter(case) > 0.2 else "leak"


def in_turn(case):
    if last_bits(case) > 0.9:
        return "bfloat16"
    if still_right_angles(case) > 0.9:
        return "frozen"
    if start_in_the_row_space(case) > 0.01:
        return "base"
    if lost(case) < 0.2:
        return "healthy"
    if by_prompts(case) > 0.3:
        return "leak"
    return "mirrors" if mirrors(case) else "scale"


WRONG = {
    "lost": [
        served_less_own,
        of_the_base,
        on_what_it_was_trained_on,
        first_of_the_curve,
        nothing_back,
    ],
    "formulas": [
        {"case 1": ("bias", lost), "case 2": ("scale", always_one)},
        {"case 1": ("mirrors", lost), "case 2": ("scale", always_one)},
        {"case 1": ("mirrors", kind), "case 2": ("scale", always_one)},
        {"case 1": ("mirrors", by_its_label), "case 2": ("scale", always_one)},
        {"case 1": ("mirrors", mirrors), "case 2": ("scale", scale_is_not_one)},
        {"case 1": ("mirrors", mirrors), "case 2": ("scale", upside_down)},
        {"case 1": ("mirrors", mirrors), "case 2": ("leak", a_quarter)},
        {"case 1": ("the order", mirrors), "case 2": ("scale", always_one)},
        {"case 1": ("mirrors", no_file_has_it), "case 2": ("scale", always_one)},
        None,
    ],
    "origins": [
        {"case 3": ("leak", on_trained_alone), "case 4": ("base", start_in_the_row_space)},
        {"case 3": ("leak", lost), "case 4": ("base", start_in_the_row_space)},
        {"case 3": ("leak", own_minus_trained), "case 4": ("base", start_in_the_row_space)},
        {"case 3": ("healthy", by_prompts), "case 4": ("base", start_in_the_row_space)},
        {"case 3": ("leak", by_prompts), "case 4": ("base", has_a_start)},
        {"case 3": ("leak", by_prompts), "case 4": ("base", away_from_the_start)},
        {"case 3": ("leak", by_prompts), "case 4": ("scale", start_in_the_row_space)},
    ],
    "tensors": [
        {"case 5": ("healthy", still_right_angles), "case 6": ("bfloat16", last_bits)},
        {"case 5": ("frozen", small_update), "case 6": ("bfloat16", last_bits)},
        {"case 5": ("frozen", a_word), "case 6": ("bfloat16", last_bits)},
        {"case 5": ("frozen", still_right_angles), "case 6": ("bias", last_bits)},
        {"case 5": ("frozen", still_right_angles), "case 6": ("bfloat16", has_sizes)},
        {"case 5": ("frozen", still_right_angles), "case 6": ("bfloat16", in_float16)},
        {"case 5": ("frozen", always_one), "case 6": ("bfloat16", last_bits)},
    ],
    "diagnose": [by_variant, all_healthy, none_healthy],
}

RIGHT = {
    "lost": [last_row_of_the_curve],
    "formulas": [{"case 1": ("mirrors", mirrors), "case 2": ["scale", a_quarter]}],
    "origins": [
        {"case 3": ("leak", by_prompts), "case 4": ("base", start_in_the_row_space)},
        {"case 4": ("base", another_first_score), "case 3": ("leak", by_prompts)},
    ],
    "tensors": [{"case 5": ("frozen", still_right_angles), "case 6": ("bfloat16", last_bits)}],
    "diagnose": [in_turn],
}
