"""The probe passes on what is right, for all nine, and sees what is wrong."""

import copy
from dataclasses import dataclass

import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import probe
from helpers import IDS

CHECKS = [
    "exact targets",
    "only the adapter is trained",
    "identity at t=0",
    "no gradient in the base",
    "the loss falls",
    "every parameter is felt",
    "saved, loaded on a fresh model",
    "disabled and detached",
]


@pytest.fixture(scope="module")
def load():
    model, tokenizer = kit.load_base()
    return lambda: (copy.deepcopy(model), tokenizer)


@pytest.mark.parametrize("name", IDS)
def test_each_variant_passes_on_the_base_model(name, load):
    torch.manual_seed(0)
    assert [check for check, _ in probe.probe(probe.small(al.VARIANTS[name]), load)] == CHECKS


@dataclass(frozen=True)
class Deaf(al.LoRA):
    """One of its parameters is trained and never used."""

    def specs(self, d_in, d_out):
        return {**super().specs(d_in, d_out), "lora_extra": al.ParamSpec((3,), torch.nn.init.ones_)}

    def prepare(self, p, layer):
        A, B, s = super().prepare(p, layer)
        return A + 0 * p.lora_extra.sum(), B, s


@dataclass(frozen=True)
class Shifted(al.LoRA):
    """No identity at t=0."""

    def forward(self, prepared, x, y):
        return super().forward(prepared, x, y) * 1.01


@dataclass(frozen=True)
class Backwards(al.LoRA):
    """Every step goes up the slope."""

    def forward(self, prepared, x, y):
        delta = super().forward(prepared, x, y) - y
        return y + (2 * delta.detach() - delta)


@pytest.mark.parametrize(
    "variant, why",
    [(Deaf(), "lora_extra changes nothing"), (Shifted(), "moved by .* at t=0"), (Backwards(), "the loss went")],
)
def test_what_is_wrong_is_seen(variant, why, load):
    torch.manual_seed(0)
    with pytest.raises(probe.ProbeError, match=why):
        list(probe.probe(variant, load))


def test_targets_that_are_too_many_are_seen(load):
    with pytest.raises(probe.ProbeError, match="too much or too little"):
        list(probe.probe(al.LoRA(), load, targets=r"(q|k|v|down)_proj$"))


def test_from_the_command_line(capsys):
    assert probe.main(["--variants", "lora", "ia3"]) == 0
    out = capsys.readouterr().out
    assert out.count("the loss falls") == 2 and out.endswith("2 of 2 variants pass\n")
