"""The formulas of what a step keeps and multiplies, against real layers of ours and of PEFT's: equal, not near."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import adapterlab as al
from adapterlab import ops
from adapterlab.bench import Setting, costs, formulas
from adapterlab.bench.setting import DTYPES, put_on

SIZES = [(64, 48, 4), (128, 32, 8), (96, 200, 16), (256, 40, 32)]  # d, n, r
CASES = [(name, by) for name, by in formulas.KEPT]


def on_layer(name, by, d, n, r, dtype="float32"):
    cls = al.VARIANTS[name]
    variant = cls(r=r) if "r" in cls.__dataclass_fields__ else cls()
    setting = Setting(width=d, tokens=n, dtype=dtype)
    return put_on(by, setting.base(), variant, setting), setting


def test_every_contender_has_its_formulas():
    ours = {name for name, cls in al.VARIANTS.items() if cls.__module__.startswith("adapterlab.variants")}
    wanted = {(name, "adapterlab") for name in ours} | {(name, "peft") for name in ours - {"antipasto"}}
    assert set(formulas.KEPT) == set(formulas.MULTIPLIED) == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d, n, r", SIZES)
def test_bytes_kept_are_those_that_a_layer_keeps(d, n, r, dtype):
    for name, by in CASES:
        found = costs.kept(*on_layer(name, by, d, n, r, dtype))
        assert formulas.kept(name, by, n, d, r, DTYPES[dtype].itemsize) == found, (name, by)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d, n, r", SIZES)
def test_multiply_adds_are_those_that_pytorch_counts(d, n, r, dtype, monkeypatch):
    monkeypatch.setattr("adapterlab.variants.dora.row_norm", ops._row_norm)  # an opaque op hides its products
    for name, by in CASES:
        contender, setting = on_layer(name, by, d, n, r, dtype)
        contender.ready(train=True)
        x = setting.inputs().requires_grad_()
        contender.model(x)  # what is derived once is not part of a step
        with FlopCounterMode(display=False) as counter:
            y = contender.model(x)
            y.backward(torch.ones_like(y))
        found = counter.get_total_flops() // 2 - 2 * n * d * d
        assert formulas.multiplied(name, by, n, d, r, DTYPES[dtype].itemsize) == found, (name, by)
