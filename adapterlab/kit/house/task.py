"""The house's task and its three splits: training, validation, and the sealed one.

The base model's held-out pairs, which no training batch shows, are parted by a hash of the pair: a third is for
validation, the rest is sealed.
"""

import zlib

import torch
from torch import Tensor

from .. import batches
from ..tasks import Example, Task, pair_is_held_out, sub_neg


def split_of(low: int, high: int) -> str:
    """ "training", "validation" or "sealed": of a pair, the smaller number first."""
    if not pair_is_held_out(low, high):
        return "training"
    return "validation" if zlib.crc32(f"{low}-{high}".encode()) % 3 == 0 else "sealed"


_SPLITS: dict[str, list[Example]] = {"training": [], "validation": [], "sealed": []}
for _low in range(10, 100):
    for _high in range(_low, 100):
        _SPLITS[split_of(_low, _high)].append((f"{_low}-{_high}=", str(_low - _high)))


def validation() -> list[Example]:
    """Every example of the validation split, once."""
    return list(_SPLITS["validation"])


def draw(rng, held_out: bool) -> Example:
    """A training example; or one for validation, where others draw from all that is held out."""
    return rng.choice(_SPLITS["validation"]) if held_out else sub_neg(rng, held_out=False)


TASK = Task("sub_neg", "the smaller number minus the larger, with its sign", draw)


@torch.no_grad()
def answered(model, tokenizer, examples: list[Example]) -> Tensor:
    """(n,) bool: which of the examples the model answers right, to the last token, in eval mode."""
    batch = {name: tensor.to(model.device) for name, tensor in batches.encode(tokenizer, examples).items()}
    training = model.training
    model.eval()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    model.train(training)
    return batches.exactly_right(logits, batch["labels"]).cpu()
