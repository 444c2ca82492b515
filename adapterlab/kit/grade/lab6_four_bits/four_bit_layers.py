"""4-bit layers for lab 6's graders: in all the states that a layer can be in, and asked for a gradient."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..evidence import draw

SHAPE = (96, 128)  # d_out, d_in


def layer(d_out: int = SHAPE[0], d_in: int = SHAPE[1], bias: bool = False) -> nn.Module:
    """In nf4 and in training mode; repacks if it is made inside museum.repacking."""
    import bitsandbytes

    plain = bitsandbytes.nn.Linear4bit(
        d_in, d_out, bias=bias, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=False
    )
    with torch.no_grad():
        plain.weight.data = draw(d_out, d_out, d_in, dtype=torch.float32)
        if bias:
            plain.bias.zero_()
    return plain.requires_grad_(False).to("cpu").train()


def inputs(one: nn.Module) -> Tensor:
    return draw(5, 4, one.in_features, dtype=torch.float32)


def eval_pass(one: nn.Module) -> nn.Module:
    """What looking at the validation loss does to it."""
    with torch.no_grad():
        one.eval()(inputs(one))
    return one.train()


def survives(one: nn.Module) -> bool:
    """Whether a gradient gets through; the layer is left as it is."""
    x = inputs(one).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one line, once: all that autograd says
        try:
            one(x).sum().backward()
        except RuntimeError:  # a repacked layer with a bias
            return False
    return x.grad is not None


def stored(one: nn.Module) -> Tensor:
    """Its bytes, flat."""
    return one.weight.data.flatten().clone()


# ---- which pass it is -----------------------------------------------------------------------------


def only_eval(one: nn.Module) -> None:
    one.eval()


def training_pass(one: nn.Module) -> None:
    with torch.no_grad():
        one.train()(inputs(one))


def differentiable_pass(one: nn.Module) -> None:
    one.eval()(inputs(one).requires_grad_())


def quiet_pass(one: nn.Module) -> None:
    with torch.no_grad():
        one.eval()(inputs(one))


PASSES: dict[str, Callable[[nn.Module], None]] = {
    "eval(), and no forward pass": only_eval,
    "forward in training mode, under no_grad": training_pass,
    "forward in eval mode, x requires a gradient": differentiable_pass,
    "forward in eval mode, under no_grad": quiet_pass,
}


# ---- a model --------------------------------------------------------------------------------------


class Deep(nn.Module):
    """4-bit layers at two depths, one of them with a bias, and a plain one."""

    def __init__(self, nested: bool = True):
        super().__init__()
        self.first = layer(128, 128)
        rest = [layer(96, 128, bias=True), nn.Linear(96, 128), layer(64, 128)]
        if nested:
            self.rest = nn.Sequential(*rest)
        else:
            self.second, self.third, self.fourth = rest
        self.last = layer(64, 64)

    def four_bit(self) -> list[nn.Module]:
        return [module for module in self.modules() if type(module).__name__ == "Linear4bit"]

    def forward(self, x):
        rest = self.rest if hasattr(self, "rest") else nn.Sequential(self.second, self.third, self.fourth)
        return self.last(rest(self.first(x)))
