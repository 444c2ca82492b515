"""Answers for lab 5."""

import math

import torch

import adapterlab as al
from adapterlab.kit import house
from adapterlab.kit.house import record

# ---- trained --------------------------------------------------------------------------------------


def shapes(v, d_in, d_out):
    """Rows times columns of what each trains."""
    r = getattr(v, "r", 0)
    thin = [(r, d_in), (d_out, r)]
    sides = {
        "dora": [*thin, (d_out, 1)],
        "delora": [*thin, (1, 1)],
        "ia3": [(d_out, 1)],
        "ia3_ff": [(d_in, 1)],
        "hra": [(r, d_in)],
        "antipasto": [(r, 1), (r, (getattr(v, "block_size", 0) - 1) / 2)],
    }
    return sum(rows * columns for rows, columns in sides.get(v.name, thin))


def but(name, other):
    """`shapes`, with one variant counted otherwise."""

    def counted(variant, d_in, d_out):
        return other(variant, d_in, d_out) if variant.name == name else shapes(variant, d_in, d_out)

    return counted


def by_attaching(variant, d_in, d_out):
    specs = variant.specs(d_in, d_out).values()
    return sum(spec.make_tensor(torch.float32, "cpu").numel() for spec in specs if not spec.as_buffer)


# ---- interval -------------------------------------------------------------------------------------


def percentiles(means, tail=0.025):
    means = means.sort().values
    return means[int(tail * len(means))].item(), means[int((1 - tail) * len(means)) - 1].item()


def drawn(values, seed, draws=4000, size=None, replace=True):
    g = torch.Generator().manual_seed(seed)
    n = len(values)
    if not replace:
        return torch.stack([values[torch.randperm(n, generator=g)].mean() for _ in range(200)])
    return values[torch.randint(n, (draws, size or n), generator=g)].mean(1)


def one_by_one(mine, theirs, seed=0):
    g = torch.Generator().manual_seed(seed + 17)
    difference = mine - theirs
    means = [
        difference[torch.randint(len(difference), (len(difference),), generator=g)].mean().item() for _ in range(3000)
    ]
    means.sort()
    return means[75], means[2924]


def by_counts(mine, theirs, seed=0):
    """How often each item is drawn, and not which."""
    g = torch.Generator().manual_seed(seed)
    n = len(mine)
    counts = torch.stack([torch.randint(n, (n,), generator=g).bincount(minlength=n) for _ in range(4000)]).double()
    return tuple((counts @ (mine - theirs) / n).quantile(torch.tensor([0.025, 0.975]).double()).tolist())


def unpaired(mine, theirs, seed=0):
    return percentiles(drawn(mine, seed) - drawn(theirs, seed + 1))


def turned_round(mine, theirs, seed=0):
    return percentiles(drawn(theirs - mine, seed))


def ninety(mine, theirs, seed=0):
    return percentiles(drawn(mine - theirs, seed), tail=0.05)


def of_items(mine, theirs, seed=0):
    difference = mine - theirs
    return difference.quantile(0.025).item(), difference.quantile(0.975).item()


def not_replaced(mine, theirs, seed=0):
    return percentiles(drawn(mine - theirs, seed, replace=False))


def by_a_bell(mine, theirs, seed=0):
    difference = mine - theirs
    reach = 1.96 * difference.std().item() / math.sqrt(len(difference))
    return difference.mean().item() - reach, difference.mean().item() + reach


def mirrored(mine, theirs, seed=0):
    difference = mine - theirs
    low, high = percentiles(drawn(difference, seed))
    return 2 * difference.mean().item() - high, 2 * difference.mean().item() - low


def never_the_same(mine, theirs, seed=0):
    difference = mine - theirs
    return percentiles(difference[torch.randint(len(difference), (4000, len(difference)))].mean(1))


def in_place(mine, theirs, seed=0):
    mine -= theirs
    return percentiles(drawn(mine, seed))


def middle_alone(mine, theirs, seed=0):
    return drawn(mine - theirs, seed).mean()


def small_draws(mine, theirs, seed=0):
    return percentiles(drawn(mine - theirs, seed, size=max(1, len(mine) // 4)))


# ---- decide ---------------------------------------------------------------------------------------


def by_sign(low, high):
    return "tied" if low * high <= 0 else ("worse", "better")[low > 0]


def by_middle(low, high):
    return "better" if low + high > 0 else "worse" if low + high < 0 else "tied"


def open_ends(low, high):
    return "better" if low >= 0 else "worse" if high <= 0 else "tied"


def backwards(low, high):
    return {"better": "worse", "worse": "better"}.get(by_sign(low, high), "tied")


def beats(low, high):
    return {"better": "beats", "worse": "below"}.get(by_sign(low, high), "tied")


# ---- submission -----------------------------------------------------------------------------------


def result(row, flip=0, better=0, validation=None):
    """A result with the answers of a row's first run, `flip` made wrong and `better` of the wrong ones right."""
    right = row._sealed[0].clone()
    right[right.nonzero().flatten()[:flip]] = 0
    right[(right == 0).nonzero().flatten()[:better]] = 1
    return house.Result(9999, row.validation.mean().item() if validation is None else validation, 1, right)


def base():
    right = torch.tensor([float(bit) for bit in record()["base"]["sealed"]], dtype=torch.float64)
    return house.Result(9999, 0.0, 1, right)


LEADER, *_, LAST = house.rows().values()

# ---- enough ---------------------------------------------------------------------------------------


def rounded_up(gap, differ):
    return math.ceil((1.96 / gap) ** 2 * (differ - gap * gap))


def counted_up(gap, differ):
    n = 1
    while 1.96 * math.sqrt((differ - gap**2) / n) > gap:
        n += 1
    return n


WRONG = {
    "trained": [
        lambda variant, d_in, d_out: None,
        but("lora", lambda v, d_in, d_out: v.r * d_in * d_out),
        but("eva", lambda v, d_in, d_out: v.r * d_out),
        but("dora", lambda v, d_in, d_out: v.r * (d_in + d_out) + d_in),
        but("dora", lambda v, d_in, d_out: v.r * (d_in + d_out)),
        but("delora", lambda v, d_in, d_out: v.r * (d_in + d_out) + d_in + 1),
        but("ia3", lambda v, d_in, d_out: d_in),
        but("ia3_ff", lambda v, d_in, d_out: d_out),
        but("hra", lambda v, d_in, d_out: v.r * (d_in + d_out)),
        but("antipasto", lambda v, d_in, d_out: v.r + v.r // v.block_size * v.block_size**2),
        but("antipasto", lambda v, d_in, d_out: v.r * (d_in + d_out)),
        lambda variant, d_in, d_out: variant.r * (d_in + d_out),
    ],
    "ranks": [
        dict.fromkeys(("lora", "pissa", "eva", "dora", "delora", "hra", "antipasto"), 2),
        {"lora": 3, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 4, "antipasto": 64},
        {"lora": 2, "pissa": 2, "eva": 2, "dora": 1, "delora": 2, "hra": 4, "antipasto": 64},
        {"lora": 2, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 5, "antipasto": 64},
        {"lora": 2, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 4, "antipasto": 96},
        {"lora": 2, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 4, "antipasto": 48},
        {"lora": 2.5, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 4, "antipasto": 64},
        {"lora": 2},
        None,
    ],
    "interval": [
        unpaired,
        turned_round,
        ninety,
        of_items,
        not_replaced,
        by_a_bell,
        mirrored,
        never_the_same,
        in_place,
        middle_alone,
        small_draws,
        lambda mine, theirs, seed=0: one_by_one(mine, theirs, seed)[::-1],
        lambda mine, theirs, seed=0: None,
    ],
    "decide": [by_middle, open_ends, backwards, beats, lambda low, high: None, lambda low, high: low > 0],
    "plan": [
        {"variant": al.LoRA(r=4), "lr": 5e-3, "targets": None},
        {"variant": al.LoRA, "lr": 5e-3, "targets": None},
        {"variant": al.EVA(r=2), "lr": 0, "targets": None},
        {"variant": al.EVA(r=2), "lr": "5e-3", "targets": None},
        {"variant": al.DoRA(r=2), "lr": 5e-3, "targets": r"attention"},
        {"variant": al.AntiPaSTO(r=128, block_size=4), "lr": 5e-3, "targets": None},
        {"variant": "eva", "lr": 5e-3},
        {"lr": 5e-3},
        al.EVA(r=2),
    ],
    "submission": [
        base(),
        result(LAST),
        result(LEADER, flip=150, validation=0.99),
        house.Refusal("The model has no adapter: attach one and train it."),
        0.9,
        None,
    ],
    "enough": [
        lambda gap, differ: 1.96 * math.sqrt(differ - gap**2) / gap,
        lambda gap, differ: (differ - gap**2) / gap**2,
        lambda gap, differ: 1.96**2 * differ / gap**2,
        lambda gap, differ: 1.96**2 * 0.25 / gap**2,
        lambda gap, differ: None,
        lambda gap, differ: 1 / gap,
    ],
}
RIGHT = {
    "trained": [shapes, by_attaching],
    "ranks": [{"lora": 2, "pissa": 2, "eva": 2, "dora": 2, "delora": 2, "hra": 4, "antipasto": 64}],
    "interval": [one_by_one, by_counts],
    "decide": [by_sign],
    "plan": [
        {"variant": al.DeLoRA(r=2), "lr": 1e-2},
        {"variant": al.LoRA(r=4), "lr": 0.01, "targets": r"self_attn"},
        {"variant": al.IA3(), "lr": 1, "targets": ["k_proj", "v_proj"]},
    ],
    "submission": [result(LEADER), result(LEADER, better=100)],
    "enough": [rounded_up, counted_up],
}
