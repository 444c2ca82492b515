"""save, load and restore: one safetensors file, whole or not at all.

The file holds the adapters' tensors under their full module paths ("model.layers.0.self_attn.q_proj.
adapter.lora_A") and one metadata entry, "adapterlab", a JSON object:

    format      1
    library     version of adapterlab that wrote it
    passes      one per attach: {"variant": name, "fields": {...}, "layers": {path: {"scale": s, "dtype": d,
                "fields": what this layer has otherwise, such as its own rank}}}
    base        path -> {"precision": p, "sha256": digest, "weight": sketch, "bias": sketch or null}: fingerprint.py
    checksum    SHA-256 over all of the above and over every tensor's name, dtype, shape and bytes
"""

import hashlib
import json
import math
import os
import reprlib
import warnings
from collections.abc import Iterable
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .files import MAX_HEADER, AdapterFileError, parse, read, write
from .fingerprint import BOUNDS, Sketch, digest, judge, measure, sketches
from .layer import LayerAdapter, adapted_layers, buffers_of, full_name, specs_of
from .offload import UNWRAP, lent, refuse_offloaded
from .runtime import DTYPES, Adapter, install, refuse_other_root
from .sharding import refuse_spread, reshard, sharded_as, whole
from .targets import named_layers
from .variant import VARIANTS, ParamSpec, Variant
from .weights import precision

FORMAT = 1


class BaseMismatchError(AdapterFileError):
    """The adapter was trained on another base model."""


# ---- save -----------------------------------------------------------------------------------------


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write all adapters of `model` to one safetensors file, in place of any file of that name.

    The file appears whole or not at all: it is written beside the target, synced and renamed. Of a sharded model
    (FSDP2) every rank must call this; rank 0 writes, and the others learn whether it could.

    Raises:
        ValueError: the model has no adapter.
        AdapterFileError: the file cannot be written, or load would refuse it: a value is not finite, a field is
            nothing that JSON gives back; or ranks attached different adapters. What stood there before is intact.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapter to save: attach one first")
    refuse_other_root(model)
    sharded = reshard(model)
    writes = not sharded or torch.distributed.get_rank() == 0
    header: dict[str, Any] = {"format": FORMAT, "library": metadata.version("adapterlab"), "passes": _passes(layers)}
    tensors = {}
    for layer in layers:
        with lent(layer.adapter):
            tensors |= _tensors(layer)
    if sharded:
        _refuse_other_ranks(_checksum(header, tensors), layers[0].weight.device)
    by_path = {layer.adapter.path: layer for layer in layers}
    measured = _measure(by_path, *((digest, sketches) if writes else ()))
    error = None
    if writes:
        header["base"] = {name: _base_entry(by_path[name], *found) for name, found in measured.items()}
        header["checksum"] = _checksum(header, tensors)
        try:
            write(Path(path), _content(tensors, header))
        except AdapterFileError as failure:
            error = failure
    if sharded:
        failed = torch.tensor(int(error is not None), device=layers[0].weight.device)
        torch.distributed.broadcast(failed, 0)
        if failed and not writes:
            error = AdapterFileError(f"rank 0 could not write {path}")
    if error is not None:
        raise error


def _refuse_other_ranks(checksum: str, device: torch.device) -> None:
    """FSDP2 shards the parameters that each rank has made, and leaves the frozen tensors as each has made them."""
    own = torch.tensor(list(bytes.fromhex(checksum)), device=device)
    of_rank_0 = own.clone()
    torch.distributed.broadcast(of_rank_0, 0)
    differs = (own != of_rank_0).any().int()
    torch.distributed.all_reduce(differs, torch.distributed.ReduceOp.MAX)
    if differs:
        raise AdapterFileError(
            "the ranks have trained with different frozen tensors, which are no one adapter: before fully_shard, let "
            "every rank attach with the same seed and the same calibration data"
        )


def _passes(layers: list[nn.Module]) -> list[dict]:
    passes: dict[str, dict] = {}
    for layer in sorted(layers, key=lambda layer: layer.adapter.order):  # stable: model order within a pass
        adapter = layer.adapter
        values = _storable(adapter.variant)
        entry = passes.setdefault(adapter.pass_id, {"variant": adapter.variant.name, "fields": values, "layers": {}})
        entry["layers"][adapter.path] = {
            "scale": float(adapter.scale),
            "dtype": _name(_storage_dtype(adapter)),
            "fields": {k: v for k, v in values.items() if v != entry["fields"][k]},
        }
    return list(passes.values())


def _storable(variant: Variant) -> dict[str, Any]:
    """Its fields, if they come back from JSON as they are."""
    values = _values(variant)
    try:
        back = _values(type(variant)(**_from_json(json.loads(json.dumps(values, allow_nan=False)))))
    except Exception as error:
        raise AdapterFileError(f"{variant} cannot be saved, its fields are not what JSON can hold: {error}") from error
    if changed := [name for name in values if back[name] != values[name]]:
        name = changed[0]
        raise AdapterFileError(
            f"{variant} cannot be saved: JSON gives {name} = {values[name]!r} back as {back[name]!r}; use numbers, "
            "text, True, False, None and tuples"
        )
    return values


def _values(variant: Variant) -> dict[str, Any]:
    return {field.name: getattr(variant, field.name) for field in fields(variant)}


def _from_json(value: Any) -> Any:
    """JSON's lists as tuples: what a frozen dataclass, which can be hashed, is likely to hold."""
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    return tuple(map(_from_json, value)) if isinstance(value, list) else value


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """The layer's tensors by full name, as they are stored."""
    adapter, found = layer.adapter, {}
    specs, dtype = specs_of(adapter.variant, adapter.path, layer), _storage_dtype(adapter)
    for name, tensor in adapter.tensors().items():
        full = full_name(adapter.path, name)
        if tensor.is_meta:
            raise AdapterFileError(
                f"{full!r} is on the meta device: there are no values to save, unless {UNWRAP} brings them back"
            )
        # lora_m goes back to float32, without loss, where model.bfloat16() has cast it: load asks for that.
        # A copy: safetensors refuses tensors that share memory, as tied ones do.
        stored = whole(tensor.detach()).to("cpu", specs[name].storage_dtype(dtype), copy=True).contiguous()
        _check_tensor(full, stored, specs[name], dtype)
        found[full] = stored
    return found


def _storage_dtype(adapter: LayerAdapter) -> torch.dtype:
    """The dtype it was attached with: that of a tensor which is not kept in full precision."""
    return min((t.dtype for t in adapter.tensors().values()), key=lambda dtype: dtype.itemsize)


def _measure(layers: dict[str, nn.Module], *functions) -> dict[str, list]:
    try:
        return measure(layers, *functions)
    except ValueError as error:
        raise AdapterFileError(str(error)) from error


def _base_entry(layer: nn.Module, sha256: str, found: tuple[Sketch, Sketch | None]) -> dict[str, str | None]:
    weight, bias = found
    return {
        "precision": precision(layer),
        "sha256": sha256,
        "weight": weight.encode(),
        "bias": None if bias is None else bias.encode(),
    }


def _checksum(header: dict, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, _name(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _content(tensors: dict[str, Tensor], header: dict) -> bytes:
    try:
        content = to_bytes(tensors, {"adapterlab": json.dumps(header)})
    except ValueError as error:  # a module's name that is no Unicode
        raise AdapterFileError(f"cannot be saved: {error}") from error
    if (length := int.from_bytes(content[:8], "little")) > MAX_HEADER:
        raise AdapterFileError(f"cannot be saved: a header of {length:,} bytes is more than load reads, {MAX_HEADER:,}")
    return content


# ---- load -----------------------------------------------------------------------------------------


def load(model: nn.Module, path: str | os.PathLike, *, strict_base: bool = True) -> Adapter:
    """Attach what `save` wrote, needing no calibration data, and return a handle over every pass in the file.

    Everything is checked before the model is touched; it is unchanged if this raises. A base that is another rounding
    of the one trained on (bf16, 4-bit ...) is accepted, with a warning that says how far off it is.

    Args:
        strict_base: False turns a base model with other weights from an error into a warning.

    Raises:
        ValueError: the model has adapters already, or is sharded or wrapped in DDP.
        AdapterFileError: the file is missing, damaged, of a newer format, or does not fit this model, a layer's weight
            having no values (on the meta device) among it.
        BaseMismatchError: an adapted layer's weights are not those that the adapter was trained on.
    """
    if adapted_layers(model):
        raise ValueError("the model has adapters already: detach them, then load")
    refuse_spread(model)
    header, tensors = inspect(path)
    layers = dict(named_layers(model))
    passes, used = [], set()
    for entry in header["passes"]:
        adapters = {}
        for layer_path, facts in entry["layers"].items():
            variant = _variant(entry["variant"], entry["fields"] | facts["fields"])
            if layer_path not in layers:
                raise AdapterFileError(f"{path} adapts {_short(layer_path)}, which this model does not have")
            if hasattr(layers[layer_path], "adapter"):
                raise AdapterFileError(f"{layer_path!r} has an attribute `adapter` of its own: it cannot be adapted")
            adapter = _restore(variant, layer_path, layers[layer_path], facts, tensors)
            used.update(full_name(layer_path, name) for name in adapter.tensors())
            adapters[layer_path] = adapter
        passes.append(adapters)
    _refuse_surplus(path, tensors, used)
    _check_base(header["base"], {layer_path: layers[layer_path] for layer_path in header["base"]}, strict_base)
    for adapters in passes:
        for layer_path, adapter in adapters.items():
            with lent(layers[layer_path]):
                adapter.derive(layers[layer_path])
    return install(model, passes)


# ---- restore --------------------------------------------------------------------------------------


def restore(model: nn.Module, path: str | os.PathLike) -> None:
    """Put the values of a file that `save` wrote into the adapters that `model` has: how training goes on.

    They are copied into the tensors that are there, which an optimiser may hold. Everything is checked before the
    first is. Of a sharded model (FSDP2) every rank must call this.

    Raises:
        ValueError: the model has no adapter, or one that is offloaded.
        AdapterFileError: the file is missing, damaged or of a newer format, or what it holds is not what is attached:
            the same variants with the same fields on the same layers, in as many passes.
        BaseMismatchError: an adapted layer's weights are not those that the adapter was trained on.
    """
    layers = {layer.adapter.path: layer for layer in adapted_layers(model)}
    if not layers:
        raise ValueError("the model has no adapter to restore: attach one first, or call load")
    refuse_other_root(model)
    for layer_path, layer in layers.items():
        refuse_offloaded(layer.adapter, full_name(layer_path, "")[:-1], f"bring it back with {UNWRAP}, then restore it")
    reshard(model)
    header, tensors = inspect(path)
    _refuse_others(path, header["passes"], list(layers.values()))
    values = {}
    for entry in header["passes"]:
        for layer_path in entry["layers"]:
            adapter = layers[layer_path].adapter
            specs, dtype = specs_of(adapter.variant, layer_path, layers[layer_path]), _storage_dtype(adapter)
            for name, own in adapter.tensors().items():
                full = full_name(layer_path, name)
                values[full] = own, _stored(full, tensors, specs[name], dtype)
    _refuse_surplus(path, tensors, values)
    _check_base(header["base"], layers, strict=True)
    with torch.no_grad():
        for own, value in values.values():
            own.copy_(sharded_as(own, value))


def _refuse_others(path: str | os.PathLike, passes: list[dict], layers: list[nn.Module]) -> None:
    """The file's passes must be those that are attached."""
    stored, present = _by_layer(passes), _by_layer(json.loads(json.dumps(_passes(layers))))
    advice = "attach what it was trained with, or detach and load it"
    for layer_path in sorted(stored.keys() | present.keys()):
        if layer_path not in present:
            raise AdapterFileError(f"{path} adapts {_short(layer_path)}, which has no adapter here: {advice}")
        if layer_path not in stored:
            raise AdapterFileError(f"{path} does not adapt {layer_path!r}, which has an adapter here: {advice}")
        if stored[layer_path] != present[layer_path]:
            key = next(key for key, value in present[layer_path].items() if stored[layer_path][key] != value)
            raise AdapterFileError(
                f"{path} holds another adapter for {layer_path!r} than the one attached: {key} "
                f"{_short(stored[layer_path][key])} there, {_short(present[layer_path][key])} here: {advice}"
            )


def _by_layer(passes: list[dict]) -> dict[str, dict[str, Any]]:
    return {
        path: {
            "variant": entry["variant"],
            "fields": entry["fields"] | facts["fields"],
            "dtype": facts["dtype"],
            "scale": facts["scale"],
            "pass": order,
        }
        for order, entry in enumerate(passes)
        for path, facts in entry["layers"].items()
    }


def inspect(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of `save` holds, its checksum verified, without a model: its header and its tensors by full name.

    The header is the module docstring's, its sketches decoded.

    Raises:
        AdapterFileError: the file is missing, damaged, of a newer format, or no file of `save`.
    """
    header, tensors = _read(Path(path))
    _check_structure(header)
    return header, tensors


# ---- load: the file ---------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Header and tensors of a whole file of this format."""
    found, tensors = read(path)
    if "adapterlab" not in found:
        raise AdapterFileError(f"{path} is a safetensors file, but no adapter that al.save wrote")
    try:
        header = parse(found["adapterlab"])
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path} is damaged: its metadata is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise AdapterFileError(f"{path} is damaged: its metadata is no JSON object")
    if type(header.get("format")) is not int or header["format"] != FORMAT:
        raise AdapterFileError(
            f"{path} has format {_short(header.get('format'))} "
            f"(written by adapterlab {str(header.get('library'))[:20]}); "
            f"this version reads format {FORMAT}: upgrade adapterlab"
        )
    checksum = header.pop("checksum", None)
    if checksum != _checksum(header, tensors):
        raise AdapterFileError(f"{path} is damaged: its checksum does not match its content")
    return header, tensors


def _short(value: Any) -> str:
    """Something from the file in a message, however long it is."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def _check_structure(header: dict) -> None:
    """The header has the structure that the module's docstring gives: what follows may rely on it."""

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise AdapterFileError(f"the file's metadata is malformed: {what}")

    def keys(value: Any, expected: set[str], what: str) -> None:
        require(isinstance(value, dict) and set(value) == expected, f"{what} must be an object of {sorted(expected)}")

    keys(header, {"format", "library", "passes", "base"}, "it")
    passes, base = header["passes"], header["base"]
    require(isinstance(header["library"], str), "`library` must be a version")
    require(isinstance(passes, list) and passes, "`passes` must be a list of at least one pass")
    paths = []
    for entry in passes:
        keys(entry, {"variant", "fields", "layers"}, "each of `passes`")
        require(isinstance(entry["variant"], str), "`variant` must be a name")
        require(isinstance(entry["fields"], dict), "`fields` must be an object")
        require(isinstance(entry["layers"], dict) and entry["layers"], "`layers` must hold at least one layer")
        for path, facts in entry["layers"].items():
            paths.append(path)
            keys(facts, {"scale", "dtype", "fields"}, f"layer {_short(path)}")
            require(isinstance(facts["dtype"], str), f"{_short(path)} must have a dtype")
            scale = facts["scale"]
            require(isinstance(scale, float) and math.isfinite(scale), f"{_short(path)} must have a finite scale")
            require(isinstance(facts["fields"], dict), f"{_short(path)} must have `fields`")
    require(len(paths) == len(set(paths)), "a layer is adapted twice")
    require(isinstance(base, dict) and set(base) == set(paths), "`base` must hold each adapted layer")
    for path, facts in base.items():
        keys(facts, {"precision", "sha256", "weight", "bias"}, f"the base of {_short(path)}")
        known = isinstance(facts["precision"], str) and facts["precision"] in BOUNDS
        require(known, f"the precision of {_short(path)} must be one of {', '.join(BOUNDS)}")
        require(isinstance(facts["sha256"], str), f"the digest of {_short(path)} must be text")
        for part in ("weight", "bias"):
            if facts[part] is None and part == "bias":
                continue
            require(isinstance(facts[part], str), f"the {part} of {_short(path)} must be a sketch")
            try:
                facts[part] = Sketch.decode(facts[part])
            except ValueError as error:
                require(False, f"the {part} of {_short(path)} is no sketch: {error}")


# ---- load: whether it fits the model ----------------------------------------------------------------


def _variant(name: str, values: dict) -> Variant:
    cls = VARIANTS.get(name)
    if cls is None:
        raise AdapterFileError(
            f"the file holds a variant {_short(name)} that is not registered (known: {', '.join(VARIANTS)}): "
            "import the module that defines it, then load"
        )
    if set(values) != {field.name for field in fields(cls)}:
        raise AdapterFileError(f"the file's fields {_short(values)} are not those of {cls.__name__}")
    try:
        return cls(**_from_json(values))
    except Exception as error:  # a class of anyone's, with values of anyone's
        raise AdapterFileError(f"the file's {cls.__name__} is not valid: {str(error)[:300]}") from error


def _restore(variant: Variant, path: str, layer: nn.Module, facts: dict, tensors: dict[str, Tensor]) -> LayerAdapter:
    """One layer's adapter with its tensors from the file, each checked against what the variant expects."""
    dtype = next((d for d in DTYPES if _name(d) == facts["dtype"]), None)
    if dtype is None:
        raise AdapterFileError(f"{path!r} is stored in {_short(facts['dtype'])}, which is no dtype of adapters")
    try:
        specs = specs_of(variant, path, layer)
    except Exception as error:
        raise AdapterFileError(f"{_short(variant)} is not for {path!r}: {str(error)[:300]}") from error
    with lent(layer):
        device = layer.weight.device
    found = {}
    for name, spec in specs.items():
        full = full_name(path, name)
        found[name] = _stored(full, tensors, spec, dtype).to(device, copy=True)
    return LayerAdapter(variant, path, found, buffers_of(specs), facts["scale"])


def _refuse_surplus(path: str | os.PathLike, tensors: dict[str, Tensor], used: Iterable[str]) -> None:
    if surplus := sorted(set(tensors) - set(used)):
        raise AdapterFileError(f"{path} holds {_short(surplus[0])}, which belongs to no adapted layer")


def _stored(full: str, tensors: dict[str, Tensor], spec: ParamSpec, dtype: torch.dtype) -> Tensor:
    """The file's tensor, in the shape that the variant gives it."""
    if full not in tensors:
        raise AdapterFileError(f"the tensor {full!r} is missing")
    tensor = tensors[full]
    if spec.shape == (1,) and tensor.shape == ():  # as DeLoRA's lambda was stored before it could be sharded
        tensor = tensor.reshape(1)
    _check_tensor(full, tensor, spec, dtype)
    return tensor


def _check_tensor(full: str, tensor: Tensor, spec: ParamSpec, dtype: torch.dtype) -> None:
    expected = spec.storage_dtype(dtype)
    if tuple(tensor.shape) != spec.shape or tensor.dtype != expected:
        raise AdapterFileError(
            f"{full!r} is {tuple(tensor.shape)} {_name(tensor.dtype)}, where this model needs "
            f"{spec.shape} {_name(expected)}"
        )
    if not tensor.isfinite().all():
        raise AdapterFileError(f"{full!r} holds values that are not finite")


def _check_base(recorded: dict[str, dict], layers: dict[str, nn.Module], strict: bool) -> None:
    digests = _measure(layers, digest)
    others = {path: layer for path, layer in layers.items() if digests[path] != [recorded[path]["sha256"]]}
    distances: dict[bool, list[tuple[float, str]]] = {True: [], False: []}  # whether rounding explains it
    for path, (present,) in _measure(others, sketches).items():
        facts = recorded[path]
        distance, explained = judge(
            (facts["weight"], facts["bias"]), facts["precision"], present, precision(layers[path])
        )
        distances[explained].append((distance, path))
    if distances[False]:
        worst = sorted(distances[False], reverse=True)
        named = ", ".join(f"{path!r} ({distance:.2g})" for distance, path in worst[:3])
        more = f", and {len(worst) - 3} more" if len(worst) > 3 else ""
        message = (
            f"{len(worst)} of {len(layers)} adapted layers have other weights than the adapter was trained on, by a "
            f"distance relative to the norm: {named}{more}. Load it on its own base model"
        )
        if strict:
            raise BaseMismatchError(f"{message}, or pass strict_base=False")
        warnings.warn(f"{message}; going on because strict_base=False", stacklevel=3)
    elif distances[True]:
        distance, path = max(distances[True])
        warnings.warn(
            f"the base is another rounding of the one that the adapter was trained on: the weights of {len(others)} "
            f"of {len(layers)} adapted layers differ by up to {distance:.2g} of their norm, most at {path!r}",
            stacklevel=3,
        )
