"""Everything that attach, detach, merge and load could leave behind on a model, as one comparable value."""

import hashlib
from contextlib import contextmanager

import torch
from torch import nn


def _tensor(t: torch.Tensor | None) -> tuple | None:
    if t is None:
        return None
    content = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return type(t).__name__, t.dtype, tuple(t.shape), t.requires_grad, hashlib.sha256(content).hexdigest()[:16]


def anatomy(model: nn.Module) -> dict[str, dict]:
    """module path -> its type, attributes, children, hooks and tensors: bits, flags, and which objects they are."""
    return {
        path: {
            "type": type(module),
            "training": module.training,
            "attributes": sorted(module.__dict__),
            "children": list(module._modules),
            "hooks": {
                name: len(h) for name, h in module.__dict__.items() if "hook" in name and h and isinstance(h, dict)
            },
            "parameters": {name: (id(p), _tensor(p)) for name, p in module._parameters.items()},
            "buffers": {name: (id(b), _tensor(b)) for name, b in module._buffers.items()},
        }
        for path, module in model.named_modules()
    }


def bits(model: nn.Module) -> dict[str, tuple | None]:
    """The tensors alone, by name, whichever objects hold them."""
    return {name: _tensor(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


@contextmanager
def unchanged(model: nn.Module):
    """Fails unless the model is on exit, to the bit, what it was on entry."""
    before = anatomy(model)
    yield
    assert anatomy(model) == before
