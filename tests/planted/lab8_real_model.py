"""Answers for lab 8."""

import math

import torch

import adapterlab as al

# ---- exact_match ----------------------------------------------------------------------------------


def if_it_is_in_it(ask, examples):
    return sum(answer.strip() in ask(prompt) for prompt, answer in examples) / len(examples)


def if_it_begins_so(ask, examples):
    said = [ask(prompt) for prompt, _ in examples]
    return sum(bool(a) and answer.strip().startswith(a) for a, (_, answer) in zip(said, examples)) / len(examples)


def asks_twice(ask, examples):
    return sum(ask(prompt) == answer.strip() for prompt, answer in examples for _ in "ab") / len(examples) / 2


def with_the_space(ask, examples):
    return sum(ask(prompt) == answer for prompt, answer in examples) / len(examples)


def a_count(ask, examples):
    return sum(ask(prompt) == answer.strip() for prompt, answer in examples)


def shows_the_answer(ask, examples):
    return sum(ask(prompt + answer) == answer.strip() for prompt, answer in examples) / len(examples)


def letter_by_letter(ask, examples):
    def share(a, b):
        return sum(x == y for x, y in zip(a, b)) / len(b)

    return sum(share(ask(prompt), answer.strip()) for prompt, answer in examples) / len(examples)


def in_one_line(ask, examples):
    prompts, answers = zip(*examples)
    right = [said.strip() == answer.strip() for said, answer in zip(map(ask, prompts), answers)]
    return torch.tensor(right).float().mean()


# ---- memory ---------------------------------------------------------------------------------------


def without_moments(size, tokens):
    return 4 * size.parameters + 8 * size.trained + tokens * (size.kept + 12 * size.vocabulary)


def trains_all(size, tokens):
    return 16 * (size.parameters + size.trained) + tokens * (size.kept + 12 * size.vocabulary)


def forgets_the_logits(size, tokens):
    return 4 * size.parameters + 16 * size.trained + tokens * size.kept


def of_one_token(size, tokens):
    return 4 * size.parameters + 16 * size.trained + size.kept + tokens * 12 * size.vocabulary


def in_gib(size, tokens):
    return by_parts(size, tokens) / 2**30


def by_parts(size, tokens):
    logit = size.vocabulary * tokens * 4
    return math.fsum([4 * size.parameters, 4 * 4 * size.trained, tokens * size.kept, 3 * logit])


# ---- stop_at --------------------------------------------------------------------------------------


def the_last(evaluations):
    return evaluations[-1][0]


def the_best(evaluations):
    return max(evaluations, key=lambda point: point[1])[0]


def the_lowest_loss(evaluations):
    return min(evaluations, key=lambda point: point[2])[0]


def the_score(evaluations):
    return max(score for _, score, _ in evaluations)


def from_the_front(evaluations):
    for step, score, _ in evaluations:
        if all(later <= score + 0.02 for _, later, _ in evaluations):
            return step


# ---- rate -----------------------------------------------------------------------------------------


def in_proportion(lr, width, other):
    return lr * width / other


def upside_down(lr, width, other):
    return lr * (other / width) ** 0.5


def as_it_was(lr, width, other):
    return lr


def by_turns(lr, width, other):
    turn = lr * math.sqrt(3 * width)
    return turn / math.sqrt(3 * other)


ALL = {"variant": al.HRA(r=8), "targets": "_proj$", "lr": 5e-3, "batch_size": 16}

WRONG = {
    "exact_match": [
        if_it_is_in_it,
        if_it_begins_so,
        asks_twice,
        with_the_space,
        a_count,
        shows_the_answer,
        letter_by_letter,
        lambda ask, examples: None,
    ],
    "memory": [without_moments, trains_all, forgets_the_logits, of_one_token, in_gib, lambda size, tokens: "much"],
    "choice": [
        {**ALL, "batch_size": 64},
        {**ALL, "batch_size": 2},
        {**ALL, "targets": "query"},
        {**ALL, "targets": "(_proj|head)$"},
        {**ALL, "lr": 1e-5},
        {**ALL, "lr": 30.0},
        {**ALL, "lr": 3.0, "variant": al.LoRA(r=8, alpha=16)},
        {**ALL, "lr": 0},
        {**ALL, "variant": "hra"},
        {**ALL, "targets": "(_proj"},
        {"r": 8},
        None,
    ],
    "stop_at": [the_last, the_best, the_lowest_loss, the_score, lambda evaluations: None],
    "rate": [in_proportion, upside_down, as_it_was, lambda *_: None],
}
RIGHT = {
    "exact_match": [in_one_line],
    "memory": [by_parts],
    "choice": [
        {"variant": al.DoRA(r=4, alpha=8), "targets": r"(q|k|v|o|up|down)_proj$", "lr": 1e-2, "batch_size": 12},
        {"variant": al.LoRA(r=8, alpha=16), "targets": r"self_attn|mlp", "lr": 5e-3, "batch_size": 16},
    ],
    "stop_at": [from_the_front],
    "rate": [by_turns],
}
