"""EVA · Paischer et al. 2024, arXiv 2410.07170, section 3.  LoRA whose A starts along the layer's own inputs."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import nn

from .. import calibrate
from ..variant import register
from .lora import LoRA


@register("eva")
@dataclass(frozen=True)
class EVA(LoRA):
    """LoRA with A started at the r directions that hold most of the layer's inputs: W' = W + s B A.

    B starts at zero and A is trained, as in LoRA. attach needs calibration data; load does not.

    Args:
        r, alpha, rslora: as in LoRA. s stays alpha / r where redistribution gives a layer another rank.
        center: False takes the right singular vectors of the inputs as they are (the paper's text), True those of
            the inputs less their mean, which are the principal components (the authors' code and PEFT).
        rho: 1 gives each layer rank r. Above 1, ranks go where they explain most: of all layers' directions, the
            r x (number of layers) with the largest explained-variance ratio are taken, at most floor(rho r) from
            one layer. A layer left with none gets no adapter.

    Tensors: lora_A (r, d_in), lora_B (d_out, r), both trained.

    Raises:
        ValueError: as in LoRA; rho is below 1 or not finite; a layer sees fewer tokens than directions are asked
            of it.
    """

    center: bool = False
    rho: float = 1.0

    data = "required"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.rho, bool) or not isinstance(self.rho, (int, float)) or not 1 <= self.rho < math.inf:
            raise ValueError(f"rho = {self.rho!r}: it must be a finite number of at least 1 (1: equal ranks)")
        if not isinstance(self.center, bool):
            raise ValueError(f"center = {self.center!r}: it must be True or False")

    def group_init(self, layers, batches):
        most = {
            path: min(math.floor(self.rho * self.r), p.lora_A.shape[1], p.lora_B.shape[0]) for path, p in layers.items()
        }
        moments = calibrate.second_moments(layers, batches)
        groups = {}  # layers that share their inputs share the moments
        for path, its in moments.items():
            its.require(most[path] + self.center, path)
            groups.setdefault(id(its), []).append(path)
        found = {}  # path -> (directions (k, d_in), share of the variance that each explains (k,))
        for paths in groups.values():
            directions, shares = moments[paths[0]].directions(self.center, max(most[path] for path in paths))
            found |= {path: (directions[: most[path]], shares[: most[path]]) for path in paths}
        ranks = _redistribute({path: shares for path, (_, shares) in found.items()}, self.r * len(layers))
        for path, p in list(layers.items()):
            r = ranks[path]
            if r == 0:
                del layers[path]
                continue
            if r != self.r:
                p.variant = replace(self, r=r)
                p.lora_A = nn.Parameter(p.lora_A.new_empty(r, p.lora_A.shape[1]))
                p.lora_B = nn.Parameter(p.lora_B.new_zeros(p.lora_B.shape[0], r))
            with torch.no_grad():
                p.lora_A.copy_(found[path][0][:r])


def _redistribute(shares, budget):
    """How many of its directions each layer keeps when the `budget` largest shares of all layers are kept."""
    ranked = sorted((-share, path) for path, values in shares.items() for share in values.tolist())
    return Counter(path for _, path in ranked[:budget])
