"""What test_engines.py judges, done in two gloo processes on CPU by every engine in turn:

    accelerate launch --multi_gpu --num_processes 2 tests/engines_worker.py OUT

(`--cpu --num_processes 2` would start a single process where there is no MPI.) Each case leaves, per rank, what it
found in OUT/CASE.RANK.pt, or the traceback; nothing is judged here.
"""

import contextlib
import hashlib
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

import adapterlab as al
import adapterlab.checkpoint
from adapterlab.layer import adapted_layers
from adapterlab.sharding import whole
from adapterlab.targets import clean
from helpers import VARIANTS, attach, far_from_start, tiny_llama

STEPS = 20
# Where it is higher, PiSSA's losses jump and multiply rounding errors; where it is lower, the others stand still.
RATES = {"pissa": 0.01, "ia3": 0.05, "ia3_ff": 0.05, "hra": 0.05, "antipasto": 0.05}
CLIP = 0.5  # below the first norms of DeLoRA's gradients, above the last
COMPILED = {"targets": r"(q|down)_proj$", "blocks": 1}  # compiling takes longest: a smaller model
FROZEN_BEFORE = ("lm_head", "layers.0.mlp")  # of the base, before attach: detach must give that back
GENERATE = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "no_repeat_ngram_size": 1}


def batch(step, half, micro=0):
    """Two rows of eight tokens: one of the two halves of a step's global batch. Every other step has the same."""
    seed = 100 * (step % 2) + 10 * micro + half
    return torch.randint(3, 48, (2, 8), generator=torch.Generator().manual_seed(seed))


def probe():
    return torch.randint(3, 48, (2, 8), generator=torch.Generator().manual_seed(99))


def loss_of(model, tokens):
    return model(input_ids=tokens, labels=tokens, use_cache=False).loss


def base(dtype=torch.float32, blocks=2):
    model = tiny_llama(dtype).train()
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:blocks], blocks
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in FROZEN_BEFORE))
    return model


def adapted(variant, dtype=torch.float32, seed=0, targets=None, blocks=2):
    """The model and its handle: one seed, one start."""
    model = base(dtype, blocks)
    torch.manual_seed(seed)
    return model, attach(model, variant, targets=targets)


def two_passes():
    """(IA)3 as in its paper: gates on keys and values, and before the last product of the MLP."""
    model = base()
    adapters = attach(model, al.IA3(), targets="[kv]_proj$"), attach(model, al.IA3FF(), targets="down_proj$")
    return model, adapters


def optimizer_of(model, parameters):
    return torch.optim.AdamW(parameters, lr=RATES.get(adapted_layers(model)[0].adapter.variant.name, 0.02))


@torch.no_grad()
def logits(model):
    return model(input_ids=probe(), use_cache=False).logits.clone()


def digests(model):
    """clean name -> of the bytes of each tensor that is no adapter's."""
    return {
        clean(name): hashlib.sha256(whole(tensor).contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in model.state_dict().items()
        if ".adapter." not in name
    }


def flags(model):
    return {clean(name): parameter.requires_grad for name, parameter in model.named_parameters()}


# ---- the engines ----------------------------------------------------------------------------------


def mesh():
    return dist.device_mesh.init_device_mesh("cpu", (2,))


def ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def ddp_compiled(model):
    return torch.compile(ddp(model), backend="aot_eager")


def fsdp(model, **options):
    """FSDP2: each block, then the rest."""
    from torch.distributed.fsdp import fully_shard

    options["mesh"] = mesh()
    for block in model.model.layers:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def fsdp_kept(model):
    return fsdp(model, reshard_after_forward=False)


def fsdp_wrapped_checkpoints(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for i, block in enumerate(model.model.layers):
        model.model.layers[i] = checkpoint_wrapper(block)
    return fsdp(model)


def fsdp_transformers_checkpoints(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return fsdp(model)


def fsdp_compiled(model):
    for block in model.model.layers:
        block.compile(backend="aot_eager")
    return fsdp(model)


def unwrapped(model):
    """Of DDP the module that it wraps; FSDP2 changes the model itself."""
    model = getattr(model, "_orig_mod", model)
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


ENGINES = {
    "ddp": ddp,
    "ddp-compiled": ddp_compiled,
    "fsdp": fsdp,
    "fsdp-kept": fsdp_kept,
    "fsdp-checkpoint-wrapper": fsdp_wrapped_checkpoints,
    "fsdp-gradient-checkpointing": fsdp_transformers_checkpoints,
    "fsdp-compiled": fsdp_compiled,
    "ddp-bf16": ddp,
    "fsdp-bf16": fsdp,
}
BF16 = {"ddp-bf16", "fsdp-bf16"}  # a base in bf16 under adapters in float32
OF_SOME = {"fsdp-kept", "fsdp-checkpoint-wrapper", "ddp-bf16"}  # near others: for three kinds of arithmetic alone
SEEN = {"ddp", "fsdp", "fsdp-kept", "fsdp-bf16"}  # where all that comes after training is looked at


def engines_of(variant):
    return [engine for engine in ENGINES if engine not in OF_SOME or variant.name in ("dora", "delora", "antipasto")]


# ---- the cases ------------------------------------------------------------------------------------


def trained(model, parameters, rank):
    """This rank's losses, on its half of each batch."""
    optimizer, losses = optimizer_of(model, parameters), []
    for step in range(STEPS):
        loss = loss_of(model, batch(step, rank))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def seen(wrapped, adapters, case, out, rank):
    """Of a wrapped model after training: what it answers and holds, its file, and what is left after detaching."""
    model = unwrapped(wrapped)
    found = {"output": logits(wrapped), "writers": written(wrapped, out / f"{case}.safetensors", rank)}
    found["base"] = digests(model)
    found["values"] = {n: whole(t).clone() for n, t in model.state_dict().items() if ".adapter." in n}
    path = adapters[0].targets[0]
    found["effective"] = path, [whole(t.detach()) for t in al.effective_weight(model.get_submodule(path))]
    with all_of(adapters, "disabled"):
        found["disabled"] = logits(wrapped)
    with all_of(adapters, "frozen"), torch.no_grad():
        found["frozen"] = logits(wrapped)
        model.eval()
        found["generated"] = model.generate(probe(), **GENERATE)
    al.detach(model)
    found["detached"], found["flags"] = logits(model), flags(model)
    found["left"] = [name for name, _ in model.named_modules() if "adapter" in name]
    return found


@contextlib.contextmanager
def all_of(adapters, name):
    with contextlib.ExitStack() as stack:
        for adapter in adapters:
            stack.enter_context(getattr(adapter, name)())
        yield


def written(wrapped, path, rank):
    """Save; whether this rank has written. Of a sharded model every rank calls, of a copy one is enough."""
    write, times = adapterlab.checkpoint.write, []
    adapterlab.checkpoint.write = lambda *args: (times.append(rank), write(*args))
    try:
        if rank == 0 or is_sharded(wrapped):
            al.save(wrapped, path)
    finally:
        adapterlab.checkpoint.write = write
    dist.barrier()
    return times


def is_sharded(model):
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def by_engine(engine, variant, case, out, rank):
    dtype = torch.bfloat16 if engine in BF16 else torch.float32
    model, adapter = adapted(variant, dtype, **(COMPILED if "compiled" in engine else {}))
    wrapped = ENGINES[engine](model)
    torch._dynamo.utils.counters.clear()
    found = {"losses": trained(wrapped, adapter.parameters(), rank)}
    if "compiled" in engine:
        counters = torch._dynamo.utils.counters
        return found | {"graphs": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"])}
    return found | (seen(wrapped, [adapter], case, out, rank) if engine in SEEN else {})


def by_accelerate(accelerator, variant, case, out, rank):
    model, adapter = adapted(variant)
    optimizer, losses = optimizer_of(model, adapter.parameters()), []
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for step in range(STEPS):
        loss = loss_of(wrapped, batch(step, rank))
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "type": type(wrapped).__name__} | seen(wrapped, [adapter], case, out, rank)


def passes(engine, case, out, rank):
    model, adapters = two_passes()
    wrapped = ENGINES[engine](model)
    losses = trained(wrapped, [p for adapter in adapters for p in adapter.parameters()], rank)
    return {"losses": losses} | seen(wrapped, adapters, case, out, rank)


def accumulated(case, out, rank):
    """Two micro-batches a step; DDP averages the gradients after the second alone."""
    model, adapter = adapted(al.DoRA(r=4, alpha=6))
    wrapped, losses = ddp(model), []
    optimizer = optimizer_of(model, adapter.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        with wrapped.no_sync():
            first = loss_of(wrapped, batch(step, rank, micro=0)) / 2
            first.backward()
        second = loss_of(wrapped, batch(step, rank, micro=1)) / 2
        second.backward()
        optimizer.step()
        losses.append(first.item() + second.item())
    return {"losses": losses}


def clipped(engine, case, out, rank):
    model, adapter = adapted(al.DeLoRA(r=4, lambda0=3.0))
    wrapped, losses, norms = ENGINES[engine](model), [], []
    parameters = list(adapter.parameters())
    optimizer = optimizer_of(model, parameters)
    for step in range(STEPS):
        loss = loss_of(wrapped, batch(step, rank))
        optimizer.zero_grad()
        loss.backward()
        norms.append(whole(nn.utils.clip_grad_norm_(parameters, CLIP)).item())
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms}


# ---- what is refused ------------------------------------------------------------------------------


def refused(function, *args, **options):
    try:
        function(*args, **options)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def late(engine, case, out, rank):
    """Everything that comes too late for a wrapped model; gathered by a forward pass or not, it is the same."""
    al.save(adapted(al.LoRA(r=2))[0], out / f"{case}.{rank}.safetensors")
    model, found = base(), {}
    wrapped = ENGINES[engine](model)
    before, answer = digests(model), logits(wrapped)  # after which the root, and all of fsdp-kept, is gathered
    found["attach"] = refused(attach, wrapped, al.LoRA(r=2))
    found["load"] = refused(al.load, wrapped, out / f"{case}.{rank}.safetensors")
    found["same"] = digests(model) == before and torch.equal(logits(wrapped), answer) and not adapted_layers(model)
    return found


def merging(engine, case, out, rank):
    model, adapter = adapted(al.DoRA(r=4, alpha=6))
    far_from_start(adapter)
    wrapped = ENGINES[engine](model)
    before, answer = digests(model), logits(wrapped)
    found = {"merge": refused(al.merge, wrapped)}
    return found | {"same": digests(model) == before and torch.equal(logits(wrapped), answer), "left": adapter.targets}


def unwritable(case, out, rank):
    wrapped = ENGINES["fsdp"](adapted(al.LoRA(r=2))[0])
    return {"save": refused(al.save, wrapped, out / "missing" / "adapter"), "made": (out / "missing").exists()}


def seeds(engine, variant, case, out, rank):
    """Each rank draws other numbers for its start."""
    model, adapter = adapted(variant, seed=rank)
    name, drawn = next((n, p.detach().clone()) for n, p in adapter.named_parameters() if n.endswith("lora_A"))
    wrapped = ENGINES[engine](model)
    start = logits(wrapped)
    held = whole(dict(adapter.named_parameters())[name].detach()).clone()
    losses = trained(wrapped, adapter.parameters(), rank)
    path = out / f"{case}.safetensors"
    save = refused(al.save, wrapped, path) if rank == 0 or is_sharded(wrapped) else None
    return {"drawn": drawn, "held": held, "start": start, "losses": losses, "save": save, "output": logits(wrapped)}


def main(out):
    torch.set_num_threads(1)
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=60))
    accelerator = Accelerator(cpu=True, kwargs_handlers=[patience])
    rank = accelerator.process_index
    assert accelerator.num_processes == 2 and dist.get_backend() == "gloo", accelerator.state

    def run(case, function, *args):
        try:
            found = function(*args, case, out, rank)
        except Exception:
            found = {"error": traceback.format_exc()}
        torch.save(found, out / f"{case}.{rank}.pt")

    for variant in VARIANTS:
        for engine in engines_of(variant):
            run(f"{engine}-{variant.name}", by_engine, engine, variant)
        run(f"accelerate-{variant.name}", by_accelerate, accelerator, variant)
    run("accumulated", accumulated)
    run("unwritable", unwritable)
    for engine in ("ddp", "fsdp"):
        run(f"passes-{engine}", passes, engine)
        run(f"clipped-{engine}", clipped, engine)
        run(f"seeds-{engine}", seeds, engine, al.LoRA(r=4, alpha=6))
        run(f"seeds-frozen-{engine}", seeds, engine, al.DeLoRA(r=4, lambda0=3.0, start="copy"))
    for engine in ("ddp", "fsdp", "fsdp-kept"):
        run(f"late-{engine}", late, engine)
        if engine != "ddp":
            run(f"merge-{engine}", merging, engine)
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
