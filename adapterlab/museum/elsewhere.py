"""Sixth room: right on the machine where it was tested."""

from contextlib import contextmanager

import torch
from torch import nn

from .. import runtime
from ..variant import kaiming
from ..variants import HRA, DoRA, LoRA
from .exhibit import Excerpt, Exhibit, broken, replaced
from .repacking import repacking

ROOM = "Elsewhere"


def hra_forward():
    from peft.tuners.hra.layer import HRALinear

    return HRALinear.forward


def does_not_stop(model):
    """weights.stop_repacking without a line."""
    return {}


@contextmanager
def repacking_unstopped():
    """bitsandbytes left to itself."""
    with replaced(runtime, "stop_repacking", does_not_stop), repacking():
        yield


@broken
class CachedNorm(DoRA):
    def _norm(self, p, layer):
        versions = p.lora_A._version, p.lora_B._version
        if getattr(p, "cached", [None])[0] != versions:
            p.cached = [versions, super()._norm(p, layer)]
        return p.cached[1]


class Thin(nn.Module):
    """A LoRA that keeps its two factors in a module of its own."""

    def __init__(self, layer):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(4, layer.in_features))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, 4))
        kaiming(self.lora_A)

    def forward(self, x, y):
        return y + (x.to(self.lora_A.dtype) @ self.lora_A.t() @ self.lora_B.t()).to(y.dtype)


def in_a_child(layer):
    layer.adapter = Thin(layer)
    layer.register_forward_hook(lambda layer, args, y: layer.adapter(*args, y))


def on_the_layer(layer):
    thin = Thin(layer)
    layer.lora_A, layer.lora_B = thin.lora_A, thin.lora_B  # one module fewer
    layer.register_forward_hook(lambda layer, args, y: Thin.forward(layer, *args, y))


def by_hand(hook):
    """A LoRA of ten lines, as a subject of the contract."""
    from .. import contract

    def put_on(model):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError("there is no linear layer here to adapt")
        model.requires_grad_(False)
        for layer in layers:
            hook(layer)
        return model

    return contract.Foreign(put_on, name=f"a LoRA by hand, {hook.__name__.replace('_', ' ')}", rank=4)


def child_by_hand():
    return by_hand(in_a_child)


def layer_by_hand():
    return by_hand(on_the_layer)


EXHIBITS = [
    Exhibit(
        20,
        "hra-int8",
        "PEFT's HRA on an 8-bit layer multiplies by the raw codes",
        ROOM,
        "wrong on a quantised base",
        "hra",
        healthy=HRA(r=4),
        broken="peft:hra",
        lines=(Excerpt(hra_forward, "orig_weight = self.get_base_layer()", "result = F.linear"),),
        let_through="Quantised layers were not tested; -128 to 127 is a weight like any other, and nothing raises.",
        passes=("identity", "dense"),
        caught_by=("quantised",),
        fix="Ask the layer for its weight in one place, which knows how layers store it; refuse what it does not know.",
        source="PEFT 0.21.2, measured.",
    ),
    Exhibit(
        22,
        "repacking",
        "bitsandbytes repacks 4-bit weights at the first forward in eval mode, and gradients end there",
        ROOM,
        "gradients gone after an evaluation",
        "lora",
        healthy=LoRA(r=4, alpha=6),
        broken=LoRA(r=4, alpha=6),
        lines=(does_not_stop,),
        let_through="The machine that ran the tests has a processor without that instruction set.",
        passes=("identity", "dense", "eval_train"),
        caught_by=("quantised",),
        fix="Switch it off while an adapter is on, and undo it where it has happened.",
        source="bitsandbytes 0.50.2 on CPUs with AVX512-BF16, measured.",
        patch=repacking_unstopped,
        simulated="On a CPU without AVX512-BF16 the repacking is simulated: bitsandbytes' own, switched on, and a "
        "kernel that has no backward pass, as the real one has none.",
    ),
    Exhibit(
        24,
        "cached-norm",
        "DoRA's norm in a cache that looks at version counters",
        ROOM,
        "another loss on two GPUs than on one",
        "dora",
        healthy=DoRA(r=4, alpha=6),
        broken=CachedNorm(r=4, alpha=6),
        lines=(CachedNorm,),
        let_through="In one process every edit counts. FSDP2 puts the gathered parameters in place without counting.",
        passes=("identity", "dense", "gradients"),
        caught_by=("in_place",),
        fix="No cache that fills by itself: compute, or freeze by name (`adapter.frozen()`).",
        source="Caught before it shipped: two processes against one, under FSDP2.",
        simulated="No second process is needed: the contract edits parameters through `.data`, which counts no version "
        "either, as FSDP2 does.",
    ),
    Exhibit(
        25,
        "offload",
        "Adapter parameters put straight on the hooked layer",
        ROOM,
        "NaN or nonsense once the model is offloaded",
        "lora",
        healthy=child_by_hand,
        broken=layer_by_hand,
        lines=(in_a_child, on_the_layer),
        let_through="One device. accelerate takes a layer's parameters away when its forward ends, before hooks run.",
        passes=("identity", "gradients"),
        caught_by=("offload",),
        fix="A child module of its own, which is called, and so is brought back in time.",
        source="accelerate's `cpu_offload`, really run.",
    ),
]
