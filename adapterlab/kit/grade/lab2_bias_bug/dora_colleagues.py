"""Two DoRAs cruder than the colleague's, by which lab 2 tells what a test sees. None is registered."""

from dataclasses import dataclass

import adapterlab as al


@dataclass(frozen=True)
class DoubleBias(al.DoRA):
    """Adds the bias once more, from the first step on."""

    def prepare(self, p, layer):
        return *super().prepare(p, layer), layer.bias

    def forward(self, prepared, x, y):
        *rest, bias = prepared
        y = super().forward(tuple(rest), x, y)
        return y if bias is None else y + bias


@dataclass(frozen=True)
class NoScale(al.DoRA):
    """B A where s B A belongs."""

    def prepare(self, p, layer):
        A, B, _, *rest = super().prepare(p, layer)
        return A, B, 1.0, *rest
