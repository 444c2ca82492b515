"""Six LoRAs of lab 1, each wrong in one method; their code is shown at the end of the lab.

All of them are LoRA's class but for that method, and LoRA's equation judges them.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ....variants import LoRA


@dataclass(frozen=True)
class Ash(LoRA):
    def layer_scale(self):
        return 1.0


@dataclass(frozen=True)
class Birch(LoRA):
    def init(self, p, layer):
        for matrix in (p.lora_A, p.lora_B):
            nn.init.kaiming_uniform_(matrix, a=5**0.5)


@dataclass(frozen=True)
class Cedar(LoRA):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        x, dtype = x.to(A.dtype), y.dtype
        total = y + s * x @ A.reshape(x.shape[-1], -1) @ B.T
        return total.to(dtype)


@dataclass(frozen=True)
class Dogwood(LoRA):
    def specs(self, d_in, d_out):
        specs = super().specs(d_in, d_out)
        return specs | {"lora_A": replace(specs["lora_A"], as_buffer=True)}


@dataclass(frozen=True)
class Elm(LoRA):
    def prepare(self, p, layer):
        if torch.is_grad_enabled():
            return p.lora_A, p.lora_B, p.scale
        if not hasattr(p, "kept"):
            p.kept = p.lora_A.clone(), p.lora_B.clone(), p.scale
        return p.kept


@dataclass(frozen=True)
class Fir(LoRA):
    def low_rank(self, p, layer):
        return p.lora_A, p.lora_B
