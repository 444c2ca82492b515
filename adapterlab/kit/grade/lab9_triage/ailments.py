"""What can be wrong with a trained adapter, and for each a measurement that a name can be held against."""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import adapterlab as al

from ...show import Table
from ...triage import Case


@dataclass(frozen=True)
class Ailment:
    """One that may be named.

    Attributes:
        means: in a sentence without its end.
        test: what was done to see whether it is that; the figure follows.
        measure: large where it is.
        least: from this on, it is that.
    """

    means: str
    test: str
    measure: Callable[[Case], float]
    least: float


def gain(case: Case, change: Callable[[nn.Module], None]) -> float:
    """By how much the served score rises when each adapted layer is changed."""
    model = case.serve()
    before = case.score(model)
    with torch.no_grad():
        for layer in case.layers(model):
            change(layer)
    return case.score(model) - before


def gap(case: Case) -> float:
    """Its own score less the served one."""
    return case.curve.exact_match - case.score(case.serve())


def turned_round(layer: nn.Module) -> None:
    if hasattr(layer.adapter, "lora_U"):
        layer.adapter.lora_U.copy_(layer.adapter.lora_U.flip(0))


def unscaled(layer: nn.Module) -> None:
    layer.adapter.scale = 1.0


def bias_scaled(layer: nn.Module) -> None:
    if hasattr(layer.adapter, "lora_m"):
        p = layer.adapter
        layer.bias.mul_(p.lora_m / (layer.weight + p.scale * p.lora_B @ p.lora_A).norm(dim=1))


def off_the_base(case: Case) -> float:
    """norm(s B0 A0 - the top of W's SVD) / norm of the latter, over all layers; 0 where nothing starts from W."""
    model = case.serve()
    found = [0.0]
    for layer in case.layers(model):
        p = layer.adapter
        if hasattr(p, "lora_A0"):
            U, S, Vh = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
            top = U[:, : len(p.lora_A0)] * S[: len(p.lora_A0)] @ Vh[: len(p.lora_A0)]
            found.append(((p.scale * p.lora_B0 @ p.lora_A0 - top).norm() / top.norm()).item())
    return max(found)


def memorised(case: Case) -> float:
    model = case.serve()
    return case.score(model, case.trained) - case.score(model)


def orthonormal(case: Case) -> float:
    """The share of layers whose rows of A are still orthonormal, as EVA starts them."""
    found = [(A.double() @ A.double().T - torch.eye(len(A))).abs().max() < 1e-4 for A in case.named("lora_A")]
    return sum(map(float, found)) / max(1, len(found))


def on_the_grid(case: Case) -> float:
    """The share of the numbers that bfloat16 holds exactly."""
    values = torch.cat([tensor.flatten() for tensor in case.tensors.values()])
    return (values == values.bfloat16()).double().mean().item()


def no_difference(case: Case) -> float:
    """The share of layers whose W' is W."""
    layers = case.layers(case.serve())
    return sum(torch.equal(al.effective_weight(layer)[0], layer.weight) for layer in layers) / len(layers)


AILMENTS = {
    "base": Ailment(
        "made on another base model, whose fingerprint was then replaced by this one's",
        "I held B0 A0 against the top of this base's SVD, and they are apart by",
        off_the_base,
        0.05,
    ),
    "bfloat16": Ailment(
        "trained in bfloat16, where small steps are rounded away, and stored in float32",
        "I counted the numbers that bfloat16 holds exactly, and their share is",
        on_the_grid,
        0.9,
    ),
    "bias": Ailment(
        "DoRA that was trained with its bias scaled",
        "I served it with every bias scaled by m / |V|, and the score rose by",
        lambda case: gain(case, bias_scaled),
        0.2,
    ),
    "empty": Ailment(
        "still at its start, with the curve of another run",
        "I counted the layers whose weight the adapter leaves as it is, and their share is",
        no_difference,
        0.5,
    ),
    "frozen": Ailment(
        "EVA whose A was never trained",
        "I counted the layers whose rows of A are orthonormal still, and their share is",
        orthonormal,
        0.5,
    ),
    "leak": Ailment(
        "scored on the examples that it was trained on",
        "I scored it on those it was trained on and on held-out ones, and the first is higher by",
        memorised,
        0.2,
    ),
    "mirrors": Ailment(
        "HRA that was trained with its mirrors in the other order",
        "I served it with the mirrors turned round, and the score rose by",
        lambda case: gain(case, turned_round),
        0.2,
    ),
    "scale": Ailment(
        "trained without alpha / r, and served with it",
        "I served it with every scale at 1, and the score rose by",
        lambda case: gain(case, unscaled),
        0.2,
    ),
}
HEALTHY = "healthy"  # may be named too


def candidates() -> Table:
    """What may be named, and what it means."""
    rows = [(f"`{name}`", ailment.means) for name, ailment in AILMENTS.items()]
    return Table(["name", "what it is"], [*rows, (f"`{HEALTHY}`", "nothing is wrong")])


# ---- the bug taken out ------------------------------------------------------------------------------

REPAIRS = {"mirrors": turned_round, "scale": unscaled}  # what another file can heal, without training


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()  # as long as the process


def repaired(case: Case, bug: str) -> Case:
    """The same numbers in a file that serves what was trained: a healthy adapter.

    Raises:
        KeyError: no file can heal that bug.
    """
    path = Path(_folder().name) / f"{bug}.safetensors"
    if not path.exists():
        model = case.serve()
        with torch.no_grad():
            for layer in case.layers(model):
                REPAIRS[bug](layer)
        al.save(model, path)
    return replace(case, name="healthy", path=path)
