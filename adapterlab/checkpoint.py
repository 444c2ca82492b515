"""save and load: one safetensors file, whole or not at all.

The file holds the adapters' tensors under their full module paths ("model.layers.0.self_attn.q_proj.
adapter.lora_A") and one metadata entry, "adapterlab", a JSON object:

    format      1
    library     version of adapterlab that wrote it
    passes      one per attach: {"variant": name, "fields": {...}, "layers": {path: {"scale": s, "dtype": d,
                "fields": what this layer has otherwise, such as its own rank}}}
    base        path -> {"dtype": d, "sha256": digest of weight and bias in float32}
    checksum    SHA-256 over all of the above and over every tensor's name, dtype, shape and bytes
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
import warnings
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .layer import LayerAdapter, adapted_layers, buffers_of, full_name, specs_of
from .runtime import DTYPES, Adapter, install, refuse_other_root
from .targets import named_layers
from .variant import VARIANTS, Variant
from .weights import dense_weight

FORMAT = 1


class AdapterFileError(ValueError):
    """The file cannot be written or is no adapter file that fits this model; the model is unchanged."""


class BaseMismatchError(AdapterFileError):
    """The adapter was trained on another base model."""


# ---- save -----------------------------------------------------------------------------------------


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write all adapters of `model` to one safetensors file, in place of any file of that name.

    The file appears whole or not at all: it is written beside the target, synced and renamed.

    Raises:
        ValueError: the model has no adapter.
        AdapterFileError: the file cannot be written; what stood there before is intact.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapter to save: attach one first")
    refuse_other_root(model)
    passes: dict[str, dict] = {}
    for layer in sorted(layers, key=lambda layer: layer.adapter.order):  # stable: model order within a pass
        adapter = layer.adapter
        entry = passes.setdefault(
            adapter.pass_id, {"variant": adapter.variant.name, "fields": asdict(adapter.variant), "layers": {}}
        )
        entry["layers"][adapter.path] = {
            "scale": float(adapter.scale),
            "dtype": _name(_storage_dtype(adapter)),
            "fields": {k: v for k, v in asdict(adapter.variant).items() if v != entry["fields"][k]},
        }
    header = {
        "format": FORMAT,
        "library": metadata.version("adapterlab"),
        "passes": list(passes.values()),
        "base": {layer.adapter.path: _fingerprint(layer) for layer in layers},
    }
    tensors = {}
    for layer in layers:
        adapter = layer.adapter
        specs = specs_of(adapter.variant, adapter.path, layer)
        for name, tensor in adapter.tensors().items():
            # lora_m goes back to float32, without loss, where model.bfloat16() has cast it: load asks for that.
            stored = tensor.detach().to("cpu", specs[name].storage_dtype(_storage_dtype(adapter)))
            tensors[full_name(adapter.path, name)] = stored.contiguous()
    header["checksum"] = _checksum(header, tensors)
    _write(Path(path), to_bytes(tensors, {"adapterlab": json.dumps(header)}))


def _storage_dtype(adapter: LayerAdapter) -> torch.dtype:
    """The dtype it was attached with: that of a tensor which is not kept in full precision."""
    return min((t.dtype for t in adapter.tensors().values()), key=lambda dtype: dtype.itemsize)


def _fingerprint(layer: nn.Module) -> dict[str, str]:
    digest = hashlib.sha256()
    for tensor in (dense_weight(layer), layer.bias):
        if tensor is not None:
            digest.update(_bytes(tensor.detach().float()))
    return {"dtype": _name(layer.weight.dtype), "sha256": digest.hexdigest()}


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


def _write(path: Path, content: bytes) -> None:
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise AdapterFileError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600
        os.replace(temporary, path)
    except OSError as error:
        raise AdapterFileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- load -----------------------------------------------------------------------------------------


def load(model: nn.Module, path: str | os.PathLike, *, strict_base: bool = True) -> Adapter:
    """Attach what `save` wrote, needing no calibration data, and return a handle over every pass in the file.

    Everything is checked before the model is touched; it is unchanged if this raises.

    Args:
        strict_base: False turns a base model with other weights from an error into a warning.

    Raises:
        ValueError: the model has adapters already.
        AdapterFileError: the file is missing, damaged, of a newer format, or does not fit this model.
        BaseMismatchError: an adapted layer's weights are not those that the adapter was trained on.
    """
    if adapted_layers(model):
        raise ValueError("the model has adapters already: detach them, then load")
    header, tensors = _read(Path(path))
    _check_structure(header)
    layers = dict(named_layers(model))
    passes, used = [], set()
    for entry in header["passes"]:
        adapters = {}
        for layer_path, facts in entry["layers"].items():
            variant = _variant(entry["variant"], entry["fields"] | facts["fields"])
            if layer_path not in layers:
                raise AdapterFileError(f"{path} adapts {layer_path!r}, which this model does not have")
            if hasattr(layers[layer_path], "adapter"):
                raise AdapterFileError(f"{layer_path!r} has an attribute `adapter` of its own: it cannot be adapted")
            adapter = _restore(variant, layer_path, layers[layer_path], facts, tensors)
            used.update(full_name(layer_path, name) for name in adapter.tensors())
            adapters[layer_path] = adapter
        passes.append(adapters)
    if surplus := sorted(set(tensors) - used):
        raise AdapterFileError(f"{path} holds {surplus[0]!r}, which belongs to no adapted layer")
    _check_base(header["base"], layers, strict_base)
    for adapters in passes:
        for layer_path, adapter in adapters.items():
            adapter.derive(layers[layer_path])
    return install(model, passes)


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    if not path.is_file():
        raise AdapterFileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("adapterlab")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # whatever safetensors makes of a damaged file
        raise AdapterFileError(f"{path} cannot be read as a safetensors file: {error}") from error
    if text is None:
        raise AdapterFileError(f"{path} is a safetensors file, but no adapter that al.save wrote")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path} is damaged: its metadata is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise AdapterFileError(f"{path} is damaged: its metadata is no JSON object")
    if header.get("format") != FORMAT:
        raise AdapterFileError(
            f"{path} has format {header.get('format')!r} (written by adapterlab {header.get('library')}); "
            f"this version reads format {FORMAT}: upgrade adapterlab"
        )
    checksum = header.pop("checksum", None)
    if checksum != _checksum(header, tensors):
        raise AdapterFileError(f"{path} is damaged: its checksum does not match its content")
    return header, tensors


def _check_structure(header: dict) -> None:
    """The header has the structure that the module's docstring gives: what follows may rely on it."""

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise AdapterFileError(f"the file's metadata is malformed: {what}")

    passes, base = header.get("passes"), header.get("base")
    require(isinstance(passes, list) and passes, "`passes` must be a list of at least one pass")
    paths = []
    for entry in passes:
        require(isinstance(entry, dict), "each of `passes` must be an object")
        require(isinstance(entry.get("variant"), str), "`variant` must be a name")
        require(isinstance(entry.get("fields"), dict), "`fields` must be an object")
        require(isinstance(entry.get("layers"), dict) and entry["layers"], "`layers` must hold at least one layer")
        for path, facts in entry["layers"].items():
            paths.append(path)
            require(isinstance(facts, dict) and isinstance(facts.get("dtype"), str), f"{path!r} must have a dtype")
            scale = facts.get("scale")
            require(isinstance(scale, float) and math.isfinite(scale), f"{path!r} must have a finite scale")
            require(isinstance(facts.get("fields"), dict), f"{path!r} must have `fields`")
    require(len(paths) == len(set(paths)), "a layer is adapted twice")
    require(isinstance(base, dict) and set(base) == set(paths), "`base` must hold each adapted layer")


def _variant(name: str, values: dict) -> Variant:
    cls = VARIANTS.get(name)
    if cls is None:
        raise AdapterFileError(
            f"the file holds a variant {name!r} that is not registered (known: {', '.join(VARIANTS)}): "
            "import the module that defines it, then load"
        )
    if set(values) != {field.name for field in fields(cls)}:
        raise AdapterFileError(f"the file's fields {values} are not those of {cls.__name__}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise AdapterFileError(f"the file's {cls.__name__} is not valid: {error}") from error


def _restore(variant: Variant, path: str, layer: nn.Module, facts: dict, tensors: dict[str, Tensor]) -> LayerAdapter:
    """One layer's adapter with its tensors from the file, each checked against what the variant expects."""
    dtype = next((d for d in DTYPES if _name(d) == facts["dtype"]), None)
    if dtype is None:
        raise AdapterFileError(f"{path!r} is stored in {facts['dtype']!r}, which is no dtype of adapters")
    try:
        specs = specs_of(variant, path, layer)
    except ValueError as error:
        raise AdapterFileError(str(error)) from error
    found = {}
    for name, spec in specs.items():
        full = full_name(path, name)
        tensor = tensors.get(full)
        if tensor is None:
            raise AdapterFileError(f"the tensor {full!r} is missing")
        if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.storage_dtype(dtype):
            raise AdapterFileError(
                f"{full!r} is {tuple(tensor.shape)} {_name(tensor.dtype)} in the file; "
                f"this model needs {spec.shape} {_name(spec.storage_dtype(dtype))}"
            )
        if not tensor.isfinite().all():
            raise AdapterFileError(f"{full!r} holds values that are not finite")
        found[name] = tensor.to(layer.weight.device, copy=True)
    return LayerAdapter(variant, path, found, buffers_of(specs), float(facts["scale"]))


def _check_base(recorded: dict[str, dict], layers: dict[str, nn.Module], strict: bool) -> None:
    different = [path for path, facts in recorded.items() if _fingerprint(layers[path]) != facts]
    if not different:
        return
    message = (
        f"{len(different)} of {len(recorded)} adapted layers have other weights than the adapter was trained on, "
        f"first {different[0]!r}: load it on its own base model"
    )
    if strict:
        raise BaseMismatchError(f"{message}, or pass strict_base=False")
    warnings.warn(f"{message}; going on because strict_base=False", stacklevel=3)
