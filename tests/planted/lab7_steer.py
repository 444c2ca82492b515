"""Answers for lab 7."""

import math
import random

import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import batches

# ---- rotation -------------------------------------------------------------------------------------


def _map(A):
    eye = torch.eye(len(A), dtype=A.dtype)
    return torch.linalg.solve(eye - A / 2, eye + A / 2)


def _limit(cap):
    return 2 * math.tan(cap / 2)


def no_cap(T, c, cap):
    return torch.matrix_exp(c * T)


def coefficient_outside_the_cap(T, c, cap):
    return _map(c * _limit(cap) * torch.tanh(T / _limit(cap)))


def cap_as_the_limit(T, c, cap):
    return _map(cap * torch.tanh(c * T / cap))


def forgets_to_invert(T, c, cap):
    A, eye = _limit(cap) * torch.tanh(c * T / _limit(cap)), torch.eye(len(T), dtype=T.dtype)
    return (eye - A / 2) @ (eye + A / 2)


def the_other_way(T, c, cap):
    return _map(_limit(cap) * torch.tanh(c * T / _limit(cap))).T


def without_the_limit_inside(T, c, cap):
    return _map(_limit(cap) * torch.tanh(c * T))


def not_halved(T, c, cap):
    A, eye = _limit(cap) * torch.tanh(c * T / _limit(cap)), torch.eye(len(T), dtype=T.dtype)
    return torch.linalg.solve(eye - A, eye + A)


def the_skew_matrix(T, c, cap):
    return _limit(cap) * torch.tanh(c * T / _limit(cap)), c


def as_the_package(T, c, cap):
    b = len(T)
    variant = al.AntiPaSTO(r=b, block_size=b, max_angle=cap)
    above = torch.ones(b, b).triu(1) > 0
    return variant._turn(2 * c * T[above][None])[0] + torch.eye(b, dtype=T.dtype)


# ---- core -----------------------------------------------------------------------------------------


def columns(S, delta, R, c):
    return R * (S + c * delta) - torch.diag(S)


def stretch_without_coefficient(S, delta, R, c):
    return torch.diag(S + delta) @ R - torch.diag(S)


def drops_a_product(S, delta, R, c):
    eye = torch.eye(len(S), dtype=S.dtype)
    return S[:, None] * (R - eye) + c * torch.diag(delta)


def keeps_what_was_there(S, delta, R, c):
    return (S + c * delta)[:, None] * R


def turns_by_the_coefficient(S, delta, R, c):
    return c * (torch.diag(S + delta) @ R - torch.diag(S))


def in_one_line(S, delta, R, c):
    return torch.diag(S + c * delta) @ R - torch.diag(S)


# ---- mirror ---------------------------------------------------------------------------------------


def of_the_weights(layer, adapter, c):
    before, found = adapter.coefficient, []
    for way in (c, -c):
        adapter.coefficient = way
        found.append(al.effective_weight(layer)[0].flatten())
    adapter.coefficient = before
    return torch.cosine_similarity(*found, dim=0)


def leaves_it_turned(layer, adapter, c):
    found = []
    for way in (c, -c):
        adapter.coefficient = way
        found.append((al.effective_weight(layer)[0] - layer.weight).flatten())
    return torch.cosine_similarity(*found, dim=0).item()


def row_by_row(layer, adapter, c):
    before, found = adapter.coefficient, []
    for way in (c, -c):
        adapter.coefficient = way
        found.append(al.effective_weight(layer)[0] - layer.weight)
    adapter.coefficient = before
    return torch.cosine_similarity(*found, dim=1)


def against_minus_one(layer, adapter, c):
    before, found = adapter.coefficient, []
    for way in (1.0, -1.0):
        adapter.coefficient = way
        found.append((al.effective_weight(layer)[0] - layer.weight).flatten())
    adapter.coefficient = before
    return torch.cosine_similarity(*found, dim=0).item()


def by_products(layer, adapter, c):
    def difference(way):
        adapter.coefficient = way
        return (al.effective_weight(layer)[0] - layer.weight).detach()

    before = adapter.coefficient
    plus, minus = difference(c), difference(-c)
    adapter.coefficient = before
    return (plus * minus).sum() / (plus.norm() * minus.norm())


# ---- price ----------------------------------------------------------------------------------------


def with_add(model, tokenizer, adapter, c, n=48):
    before, adapter.coefficient = adapter.coefficient, c
    found = {name: kit.evaluate(model, tokenizer, name, n)["exact_match"] for name in kit.SKILLS}
    adapter.coefficient = before
    return found


def never_sets_it_back(model, tokenizer, adapter, c, n=48):
    adapter.coefficient = c
    names = [name for name in kit.SKILLS if name != "add"]
    return {name: kit.evaluate(model, tokenizer, name, n)["exact_match"] for name in names}


def where_it_stands(model, tokenizer, adapter, c, n=48):
    names = [name for name in kit.SKILLS if name != "add"]
    return {name: kit.evaluate(model, tokenizer, name, n)["exact_match"] for name in names}


def one_number(model, tokenizer, adapter, c, n=48):
    found = with_add(model, tokenizer, adapter, c, n)
    return sum(found.values()) / len(found)


def without_sub_too(model, tokenizer, adapter, c, n=48):
    found = with_add(model, tokenizer, adapter, c, n)
    return {name: score for name, score in found.items() if name not in ("add", "sub")}


def with_try(model, tokenizer, adapter, c, n=48):
    names, before = set(kit.SKILLS) - {"add"}, adapter.coefficient
    try:
        adapter.coefficient = c
        with adapter.frozen():
            return {name: kit.evaluate(model, tokenizer, name, n)["exact_match"] for name in names}
    finally:
        adapter.coefficient = before


# ---- gentler --------------------------------------------------------------------------------------


def nothing_at_all(model, tokenizer, adapter):
    pass


def the_task_alone(model, tokenizer, adapter):
    kit.train(model, tokenizer, "add_rev", lr=2e-2, steps=50, evaluate_every=50, live=False)


def turned_down(model, tokenizer, adapter):
    kit.train(model, tokenizer, "add_rev", lr=1e-2, steps=2, evaluate_every=2, live=False)
    adapter.coefficient = 0.5


def taking_turns(model, tokenizer, adapter):
    """A batch of the task, a batch of the others, both in each step."""
    names = [name for name in kit.SKILLS if name != "add"]
    optimizer, rng, steps = torch.optim.AdamW(adapter.parameters(), 1e-2, weight_decay=0.0), random.Random(1), 100
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 10) * (1 - step / steps)
        mixed = [kit.TASKS["add_rev"].draw(rng, False) for _ in range(22)]
        mixed += [kit.SKILLS[name].draw(rng, False) for name in rng.choices(names, k=12)]
        model(**batches.encode(tokenizer, mixed)).loss.backward()
        torch.nn.utils.clip_grad_norm_(list(adapter.parameters()), 1.0)
        optimizer.step()
        optimizer.zero_grad()


WRONG = {
    "rotation": [
        no_cap,
        coefficient_outside_the_cap,
        cap_as_the_limit,
        forgets_to_invert,
        the_other_way,
        without_the_limit_inside,
        not_halved,
        the_skew_matrix,
    ],
    "core": [
        columns,
        stretch_without_coefficient,
        drops_a_product,
        keeps_what_was_there,
        turns_by_the_coefficient,
    ],
    "mirror": [of_the_weights, leaves_it_turned, row_by_row, against_minus_one],
    "price": [with_add, never_sets_it_back, where_it_stands, one_number, without_sub_too],
    "choice": [1.0, 0.0, -0.5, "0.5"],
    "gentler": [nothing_at_all, the_task_alone, turned_down],
}

RIGHT = {
    "rotation": [as_the_package],
    "core": [in_one_line],
    "mirror": [by_products],
    "price": [with_try],
    "choice": [0.5],
    "gentler": [taking_turns],
}
