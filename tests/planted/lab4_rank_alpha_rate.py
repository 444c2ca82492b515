"""Answers for lab 4."""

import math

import torch

from adapterlab.kit import rates

# ---- centre ---------------------------------------------------------------------------------------


def lowest_point(rates, losses):
    return rates[losses.index(min(losses))]


def by_mean(rates, losses):
    floor = [rate for rate, loss in zip(rates, losses) if loss <= 1.15 * min(losses)]
    return (min(floor) + max(floor)) / 2


def by_a_tenth_of_a_nat(rates, losses):
    floor = [rate for rate, loss in zip(rates, losses) if loss <= min(losses) + 0.1]
    return math.sqrt(min(floor) * max(floor))


def in_the_order_given(rates, losses):
    floor = [rate for rate, loss in zip(rates, losses) if loss <= 1.15 * min(losses)]
    return math.sqrt(floor[0] * floor[-1])


def of_all_rates(rates, losses):
    return math.sqrt(min(rates) * max(rates))


def the_loss(rates, losses):
    return min(losses)


def the_ends(rates, losses):
    floor = [rate for rate, loss in zip(rates, losses) if loss <= 1.15 * min(losses)]
    return min(floor), max(floor)


def its_logarithm(rates, losses):
    floor = [math.log10(rate) for rate, loss in zip(rates, losses) if loss <= 1.15 * min(losses)]
    return (min(floor) + max(floor)) / 2


def by_tensors(rates, losses):
    rates, losses = torch.tensor(rates, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)
    floor = rates[losses <= 1.15 * losses.min()].log()
    return ((floor.min() + floor.max()) / 2).exp()


def by_interpolation(lrs, losses):
    low, high = rates.plateau(lrs, losses)
    return math.exp((math.log(low) + math.log(high)) / 2)


# ---- predictions ----------------------------------------------------------------------------------

ANCHOR = rates.measured()[rates.ANCHOR].centre
ALPHA, ONE, SIXTY_FOUR = "r = 8, alpha = 128", "r = 1, alpha = 16", "r = 64, alpha = 16"

# ---- search ---------------------------------------------------------------------------------------


def trusts_the_guess(run, guess):
    return guess


def looks_nearby(run, guess):
    return min((guess * f for f in (0.9, 1, 1.1)), key=run)


def takes_the_worst(run, guess):
    return max((guess / 2, guess, guess * 2), key=run)


def a_sweep(run, guess):
    return min((guess * 2.0**k for k in range(-3, 4)), key=run)


def starts_anew(run, guess):
    return min((1e-3, 3e-3, 1e-2), key=run)


def the_lowest_loss(run, guess):
    return min(run(guess / 2), run(guess), run(guess * 2))


def by_decades(run, guess):
    return min((guess / 10, guess, guess * 10), key=run)


def asks_twice(run, guess):
    tried = [guess / 2, guess, guess * 2]
    if run(tried[0]) < run(tried[1]):
        return tried[0]
    return min(tried[1:], key=run)


def best_of_three(run, guess):
    losses = {lr: run(lr) for lr in (guess / 2.3, guess, guess * 2.3)}
    return min(losses, key=losses.get)


def follows_the_slope(run, guess):
    here, up = run(guess), run(2 * guess)
    if up < here:
        return 4 * guess if run(4 * guess) < up else 2 * guess
    return guess / 2 if run(guess / 2) < here else guess


# ---- scale ----------------------------------------------------------------------------------------


def root_of_all(r, alpha, rslora):
    return math.sqrt(alpha / r) if rslora else alpha / r


def never_rslora(r, alpha, rslora):
    return alpha / r


def the_wrong_way_round(r, alpha, rslora):
    return alpha / r if rslora else alpha / math.sqrt(r)


def multiplies(r, alpha, rslora):
    return alpha * math.sqrt(r) if rslora else alpha / r


def whole_numbers(r, alpha, rslora):
    return alpha // math.sqrt(r) if rslora else alpha // r


def by_powers(r, alpha, rslora):
    return alpha * r ** (-0.5 if rslora else -1)


def by_tensor(r, alpha, rslora):
    return torch.tensor(alpha, dtype=torch.float64) / (torch.tensor(float(r)).double().sqrt() if rslora else r)


# ---- transfer -------------------------------------------------------------------------------------


def as_it_is(lr, old, new):
    return lr


def by_scale(lr, old, new):
    return lr * old.layer_scale() / new.layer_scale()


def by_alpha(lr, old, new):
    return lr * old.alpha / new.alpha


def the_other_way(lr, old, new):
    return lr * (new.layer_scale() * new.r / old.layer_scale() / old.r) ** 0.5


def by_rank(lr, old, new):
    return lr * math.sqrt(old.r / new.r)


def by_logarithms(lr, old, new):
    reach = [math.log2(v.alpha) + (math.log2(v.r) / 2 if v.rslora else 0) for v in (old, new)]
    return 2 ** (math.log2(lr) - 0.55 * (reach[1] - reach[0]))


WRONG = {
    "centre": [
        lowest_point,
        by_mean,
        by_a_tenth_of_a_nat,
        in_the_order_given,
        of_all_rates,
        the_loss,
        the_ends,
        its_logarithm,
    ],
    "predictions": [
        {ALPHA: ANCHOR, ONE: ANCHOR, SIXTY_FOUR: ANCHOR},
        {ALPHA: 8 * ANCHOR, ONE: ANCHOR, SIXTY_FOUR: ANCHOR},
        {ALPHA: ANCHOR / 5, ONE: ANCHOR / 8, SIXTY_FOUR: 8 * ANCHOR},
        {ALPHA: ANCHOR / 64, ONE: ANCHOR, SIXTY_FOUR: ANCHOR},
        {ALPHA: -3, ONE: 0, SIXTY_FOUR: 0},
        {ALPHA: ANCHOR / 5, ONE: ANCHOR},
        [ANCHOR / 5, ANCHOR, ANCHOR],
        None,
    ],
    "search": [
        trusts_the_guess,
        looks_nearby,
        takes_the_worst,
        a_sweep,
        starts_anew,
        the_lowest_loss,
        by_decades,
        asks_twice,
        lambda run, guess: None,
    ],
    "scale": [root_of_all, never_rslora, the_wrong_way_round, multiplies, whole_numbers, lambda r, alpha, rslora: None],
    "moves": [
        {"alpha / r": 3, "alpha / sqrt(r)": 0},
        {"alpha / r": 0, "alpha / sqrt(r)": 2},
        {"alpha / r": 0, "alpha / sqrt(r)": 0},
        {"alpha / r": 0, "alpha / sqrt(r)": -6},
        {"alpha / r": "stays", "alpha / sqrt(r)": "moves"},
        "alpha / sqrt(r)",
    ],
    "transfer": [as_it_is, by_scale, by_alpha, the_other_way, by_rank, lambda lr, old, new: None],
}
RIGHT = {
    "centre": [by_tensors, by_interpolation],
    "predictions": [
        {ALPHA: ANCHOR / 4, ONE: ANCHOR, SIXTY_FOUR: ANCHOR},
        {ALPHA: ANCHOR / 8**0.7, ONE: ANCHOR * 0.9, SIXTY_FOUR: ANCHOR * 1.1},
    ],
    "search": [best_of_three, follows_the_slope],
    "scale": [by_powers, by_tensor],
    "moves": [{"alpha / r": 0, "alpha / sqrt(r)": -2}, {"alpha / r": 0.5, "alpha / sqrt(r)": -1.0}],
    "transfer": [by_logarithms],
}
