"""What test_planner.py judges: bytes that two gloo processes really hold, counted without the planner.

Each case leaves, per rank, what it counted in OUT/CASE.RANK.json, or the traceback.
"""

import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import adapterlab as al

ROWS, TOKENS = 2, 24
VARIANTS = {
    "lora": al.LoRA(r=3, alpha=6),
    "pissa": al.PiSSA(r=3),
    "dora": al.DoRA(r=3, alpha=6),
    "delora": al.DeLoRA(r=3),
    "ia3": al.IA3(),
    "ia3_ff": al.IA3FF(),
    "hra": al.HRA(r=4),
    "eva": al.EVA(r=3, alpha=6),
    "antipasto": al.AntiPaSTO(r=8, block_size=4),
}
# Sizes that two do not divide; embeddings tied in one, apart in the other.
SMALL = dict(
    hidden_size=60,
    intermediate_size=81,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    vocab_size=97,
    pad_token_id=0,
)
CASES = [(name, engine, False) for name in VARIANTS for engine in ("ddp", "fsdp2")]
CASES += [(name, engine, True) for name in ("lora", "dora", "hra") for engine in ("ddp", "fsdp2")]
QUANTIZED = [("lora", "4bit"), ("dora", "4bit"), ("lora", "8bit"), ("hra", "8bit")]


def config(tied: bool):
    from transformers import LlamaConfig

    return LlamaConfig(tie_word_embeddings=tied, **SMALL)


def adapted(variant, tied: bool, dtype=torch.bfloat16):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(tied), dtype=dtype).train()
    return put_on(model, variant)


def put_on(model, variant):
    torch.manual_seed(1)
    data = None
    if variant.data == "required":
        data = [{"input_ids": batch(), "use_cache": False}]
    al.attach(model, variant, calibration_data=data)
    return model.train()


def batch():
    return torch.randint(3, 90, (ROWS, TOKENS), generator=torch.Generator().manual_seed(dist.get_rank()))


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def storages(tensors) -> dict[int, int]:
    """Address -> bytes, of each storage once."""
    found = {}
    for tensor in tensors:
        storage = local(tensor.detach()).untyped_storage()
        if storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    return found


def size(tensors) -> int:
    return sum(storages(tensors).values())


def is_adapter(name: str) -> bool:
    return ".adapter." in name


def saved_by(model, run) -> int:
    """Bytes that `run` leaves for the backward pass, beside what the model holds at the time."""
    found = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in storages([*model.parameters(), *model.buffers()]):
            found.update(storages([tensor]))
            kept.append(tensor)  # or its address may be another's later
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(found.values()), result


def measure(name: str, engine: str, checkpointing: bool) -> dict:
    model = adapted(VARIANTS[name], tied=name in ("lora", "hra"))
    inner, gathered = model, {}
    if checkpointing:
        model.config.use_cache = False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if engine == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

        def look(block, *_):
            if not gathered:
                whole = [p for p in inner.parameters() if not hasattr(p, "to_local")]
                gathered["bytes"] = size(whole)

        inner.model.layers[1].mlp.register_forward_hook(look)
    optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad])
    ids = batch()
    saved, loss = saved_by(inner, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)
    loss.backward()
    optimizer.step()
    if engine == "fsdp2":
        for module in inner.modules():
            if hasattr(module, "reshard"):
                module.reshard()
    named = list(inner.named_parameters())
    return {
        "weights": size(p for n, p in named if not is_adapter(n)) + size(inner.buffers()),
        "adapter": size(p for n, p in named if is_adapter(n)),
        "gradients": size(p.grad for _, p in named if p.grad is not None),
        "optimizer": sum(
            local(t).numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.dim()
        ),
        "saved": saved,
        "gathered": gathered.get("bytes", 0),
        "rank": dist.get_rank(),
    }


def quantised(name: str, kind: str, folder: Path) -> dict:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    asked = {"4bit": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)}
    asked["8bit"] = dict(load_in_8bit=True)
    adapted(VARIANTS["ia3"], tied=False)  # what is random is as in the others
    config(False)
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config(False), dtype=torch.bfloat16).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**asked[kind]), device_map="cpu"
    )
    model = put_on(model, VARIANTS[name])
    held = [p for n, p in model.named_parameters() if not is_adapter(n)] + list(model.buffers())
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        held += [t for t in (getattr(state, "absmax", None), getattr(state, "code", None)) if t is not None]
        scale = getattr(getattr(module, "weight", None), "SCB", None)
        held += [scale] if scale is not None else []
    ids = batch()
    saved, loss = saved_by(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)
    loss.backward()
    return {"weights": size(held), "saved": saved}


def main(rank: int, out: str) -> None:
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    out = Path(out)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    for case in CASES:
        _record(out / f"{'-'.join(map(str, case))}.{rank}.json", measure, *case)
    if rank == 0:
        for case in QUANTIZED:
            _record(out / f"{'-'.join(case)}.{rank}.json", quantised, *case, out / "base")
    dist.barrier()
    dist.destroy_process_group()


def _record(path: Path, measured, *case) -> None:
    try:
        found = measured(*case)
    except Exception:
        found = {"error": traceback.format_exc()}
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (sys.argv[1],), nprocs=2)
