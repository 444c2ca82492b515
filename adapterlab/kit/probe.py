"""Does every variant work on this model? `adapterlab probe [--model NAME] [--device cuda]`.

Puts each variant on a causal LM as a user would and checks what must then be true: the layers that were asked for
and no others, nothing trained but the adapter, each of its parameters felt in the output, a falling loss, and the
same logits from a fresh model that loads the file. On the embedded base model, or on any hub model or folder.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import torch

import adapterlab as al

from . import batches
from .base import load_base
from .tasks import get

STEPS, EXAMPLES = 8, 16
TARGETS = r"(^|\.)(q|v|down)_proj$"
TASK = "add_rev"
RATE, RATE_OF_FEW = 3e-3, 2e-2  # gates and angles are few, and take larger steps
FEW = ("ia3", "ia3_ff", "antipasto")


class ProbeError(AssertionError):
    """What a probe found wrong, in a sentence."""


def probe(variant: al.Variant, load: Callable, targets: str = TARGETS) -> Iterator[tuple[str, str]]:
    """Yield (check, what was seen) for each check that holds.

    Args:
        load: gives the model, fresh each time, and its tokenizer.

    Raises:
        ProbeError: a check does not hold.
    """
    model, tokenizer = load()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = [
        {name: tensor.to(model.device) for name, tensor in batch.items()}
        for batch in batches.training(get(TASK), tokenizer, STEPS + 1, EXAMPLES, seed=0)
    ]

    @torch.no_grad()
    def logits(of=model):
        batch = data[-1]
        return of(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def loss(batch):
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return batches.answer_loss(out, batch["labels"])

    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    asked = {name for name in linear if name.rpartition(".")[2] in ("q_proj", "v_proj", "down_proj")}
    base = logits()
    calibration = None if variant.data == "none" else data[:2]
    adapter = al.attach(model, variant, targets=targets, calibration_data=calibration)
    _require(set(adapter.targets) == asked, f"adapted {sorted(set(adapter.targets) ^ asked)} too much or too little")
    yield "exact targets", f"{len(adapter.targets)} layers"

    ours = dict(adapter.named_parameters())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    _require(trainable == set(ours), f"also trainable: {sorted(trainable ^ set(ours))[:3]}")
    yield "only the adapter is trained", f"{adapter.num_parameters:,} parameters"

    start = _distance(logits(), base)
    _require(start < 1e-5 if base.dtype == torch.float32 else start < 2e-2, f"the outputs moved by {start:.1e} at t=0")
    yield "identity at t=0", "bit for bit" if start == 0 else "to rounding"

    loss(data[0]).backward()
    _require(all(p.grad is None for n, p in model.named_parameters() if n not in ours), "the base has a gradient")
    _require(all(p.grad.isfinite().all() for p in ours.values()), "a gradient is not finite")
    alive = {name.rpartition(".")[2] for name, p in ours.items() if p.grad.abs().max() > 0}
    adapter_grads = sorted(alive)
    model.zero_grad()
    yield "no gradient in the base", f"at step 0 in {', '.join(adapter_grads)}"

    with torch.no_grad():
        first = loss(data[0]).item()
    optimizer = torch.optim.AdamW(ours.values(), lr=RATE_OF_FEW if variant.name in FEW else RATE, weight_decay=0.0)
    for batch in data[:STEPS]:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        last = loss(data[0]).item()
    _require(last < first, f"the loss went from {first:.3f} to {last:.3f}")
    yield "the loss falls", f"{first:.2f} to {last:.2f}"

    trained = logits()
    for name, parameter in ours.items():  # each in turn: one that does nothing hides among the others
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.5 * parameter.abs().mean().clamp(min=0.1) * torch.randn_like(parameter))
        moved = _distance(logits(), trained)
        with torch.no_grad():
            parameter.copy_(kept)
        _require(moved > 0, f"{name} changes nothing")
    yield "every parameter is felt", f"{len(ours)} in turn"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        al.save(model, path)
        fresh, _ = load()
        al.load(fresh, path)
        _require(torch.equal(logits(fresh), logits()), "the reloaded adapter gives other logits")
        yield "saved, loaded on a fresh model", "the same logits"
    with adapter.disabled():
        _require(torch.equal(logits(), base), "disabled, it is not the base model")
    adapter.detach()
    _require(torch.equal(logits(), base), "detached, it is not the base model")
    yield "disabled and detached", "the base model, bit for bit"


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ProbeError(otherwise)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def small(kind: type[al.Variant]) -> al.Variant:
    """The variant at rank 8, where it has one."""
    return kind(**({"r": 8} if "r" in {field.name for field in fields(kind)} else {}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="adapterlab probe", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a hub name or a folder; the embedded base model if it is left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--variants", nargs="+", default=list(al.VARIANTS), choices=list(al.VARIANTS), metavar="NAME")
    options = parser.parse_args(arguments)

    def load():
        model, tokenizer = load_base(options.model, dtype=getattr(torch, options.dtype))
        return model.to(options.device), tokenizer

    failed = 0
    for name in options.variants:
        torch.manual_seed(0)
        print(name)
        try:
            for check, seen in probe(small(al.VARIANTS[name]), load):
                print(f"  {check:32} {seen}")
        except ProbeError as error:
            failed += 1
            print(f"  FAILED: {error}")
    print(f"{len(options.variants) - failed} of {len(options.variants)} variants pass")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
