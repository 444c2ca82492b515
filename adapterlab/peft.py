"""To and from Hugging Face PEFT: the one place that knows its names, its configurations and its files.

    to_peft     writes a folder that PeftModel.from_pretrained loads with the same outputs
    from_peft   reads such a folder

| variant | PEFT's own form | as_lora=True |
|---|---|---|
| lora, eva | LoraConfig | the same |
| pissa | LoraConfig of rank 2 r | the same |
| dora | LoraConfig(use_dora=True) | no: full rank |
| delora | DeloraConfig; the paper's start or norm: no | LoraConfig of rank r (2 r from a copy) |
| ia3, ia3_ff | one IA3Config | no: full rank |
| hra | HRAConfig | LoraConfig of rank r |
| antipasto | no | LoraConfig of rank r |
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .files import AdapterFileError, read, write
from .layer import LayerAdapter, adapted_layers, buffers_of, full_precision, specs_of
from .offload import UNWRAP, at_hand, lent, refuse_offloaded
from .runtime import DTYPES, Adapter, install, refuse_other_root
from .targets import named_layers
from .variant import Variant
from .variants import EVA, HRA, IA3, IA3FF, DeLoRA, DoRA, LoRA, PiSSA

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def _peft():
    try:
        import peft
    except ImportError as error:
        raise ImportError('moving to and from PEFT needs the package peft: pip install "adapterlab[peft]"') from error
    return peft


# ---- to PEFT --------------------------------------------------------------------------------------


def to_peft(model: nn.Module, folder: str | os.PathLike, *, as_lora: bool = False) -> None:
    """Write all adapters of `model` as a PEFT adapter: adapter_config.json and adapter_model.safetensors.

    Tensors are written in float32 at least; AntiPaSTO's at its present coefficient. PEFT files do not say which
    base model they belong to beyond its name, so `al.save` is the format to keep.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        as_lora: write the difference of each layer as an ordinary LoRA, which any runtime serves, whatever the
            variant; refused where that difference has full rank.

    Raises:
        ValueError: there is no adapter, or PEFT cannot hold what is attached: the message says what and why.
        AdapterFileError: the folder cannot be written.
    """
    layers = {layer.adapter.path: layer for layer in adapted_layers(model)}
    if not layers:
        raise ValueError("the model has no adapter to export: attach one first")
    refuse_other_root(model)
    if "" in layers:
        raise ValueError("PEFT adapts layers inside a model, not a bare layer: put it into a module first")
    with torch.no_grad(), lent(*(layer.adapter for layer in layers.values())):
        for path, layer in layers.items():
            refuse_offloaded(layer.adapter, f"{path}.adapter", f"bring it back with {UNWRAP}, then export it")
        config, tensors = _lora_form(layers) if as_lora else _own_form(layers)
    config |= _targets(model, list(layers), config.get("feedforward_modules"))
    content = {}
    for name, tensor in tensors.items():
        wide = torch.promote_types(tensor.dtype, torch.float32)
        content[PREFIX + name] = tensor.to("cpu", wide).contiguous()
    _write_folder(model, Path(folder), config, content)


def _own_form(layers: dict[str, nn.Module]) -> tuple[dict, dict[str, Tensor]]:
    """-> the configuration's fields, with "kind" the name of its class, and tensors by PEFT's names."""
    kinds = {path: OWN_FORM.get(type(layer.adapter.variant)) for path, layer in layers.items()}
    for path, kind in kinds.items():
        if kind is None:
            name = layers[path].adapter.variant.name
            raise ValueError(f"PEFT has no {name} (layer {path!r}): write it with as_lora=True if its rank is low")
    if len(set(kinds.values())) > 1:
        names = " and ".join(sorted({layer.adapter.variant.name for layer in layers.values()}))
        raise ValueError(f"one PEFT adapter cannot hold {names} together: export them apart, or with as_lora=True")
    return next(iter(kinds.values()))(layers)


def _as_plain_lora(layers):
    tensors, ranks, alphas = {}, {}, {}
    rslora = all(layer.adapter.variant.rslora for layer in layers.values())
    for path, layer in layers.items():
        p = layer.adapter
        A, B = p.lora_A, p.lora_B
        if isinstance(p.variant, PiSSA):
            A, B, _ = p.variant.prepare(p, layer)  # B A - B0 A0 as one product, of rank 2 r
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = A, B
        ranks[path] = len(A)
        alphas[path] = p.scale * (math.sqrt(len(A)) if rslora else len(A))
    return {
        "kind": "LoraConfig",
        "use_rslora": rslora,
        **_most(ranks, "r", "rank_pattern"),
        **_most(alphas, "lora_alpha", "alpha_pattern"),
    }, tensors


def _as_dora(layers):
    config, tensors = _as_plain_lora(layers)
    for path, layer in layers.items():
        tensors[f"{path}.lora_magnitude_vector"] = layer.adapter.lora_m
    return {**config, "use_dora": True}, tensors


def _lora_form(layers: dict[str, nn.Module]) -> tuple[dict, dict[str, Tensor]]:
    tensors, ranks = {}, {}
    for path, layer in layers.items():
        with at_hand(layer, path), full_precision(layer.weight.device):
            factors = layer.adapter.variant.low_rank(layer.adapter, layer)
        if factors is None:
            raise ValueError(
                f"{layer.adapter.variant.name} on {path!r} is no LoRA: W' - W has full rank; "
                "merge it, or export it without as_lora to a runtime that knows it"
            )
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = factors
        ranks[path] = len(factors[0])
    return {  # lora_alpha = r: the scale is in B
        "kind": "LoraConfig",
        **_most(ranks, "r", "rank_pattern"),
        **_most(ranks, "lora_alpha", "alpha_pattern"),
    }, tensors


def _as_delora(layers):
    tensors, ranks = {}, {}
    for path, layer in layers.items():
        p = layer.adapter
        if (p.variant.start, p.variant.norm) != ("zero", "column"):
            raise ValueError(
                f"PEFT's DeLoRA has start='zero' and norm='column' only; layer {path!r} has start={p.variant.start!r} "
                f"and norm={p.variant.norm!r}: write it with as_lora=True"
            )
        tensors |= {
            f"{path}.delora_A": p.lora_A,
            f"{path}.delora_B": p.lora_B,
            f"{path}.delora_lambda": p.lora_lambda.reshape(1),
            f"{path}.delora_w_norm": p.lora_wnorm,
        }
        ranks[path] = len(p.lora_A)
    starts = {path: layer.adapter.variant.lambda0 for path, layer in layers.items()}
    return {
        "kind": "DeloraConfig",
        **_most(ranks, "r", "rank_pattern"),
        **_most(starts, "delora_lambda", "lambda_pattern"),
    }, tensors


def _as_ia3(layers):
    inputs = [path for path, layer in layers.items() if isinstance(layer.adapter.variant, IA3FF)]
    shapes = {path: (1, -1) if path in inputs else (-1, 1) for path in layers}
    tensors = {f"{path}.ia3_l": layer.adapter.lora_g.reshape(shapes[path]) for path, layer in layers.items()}
    return {"kind": "IA3Config", "feedforward_modules": inputs}, tensors


def _as_hra(layers):
    ranks = {path: len(layer.adapter.lora_U) for path, layer in layers.items()}
    if len(set(ranks.values())) > 1:
        raise ValueError(f"PEFT's HRA has one r for all layers, not {sorted(set(ranks.values()))}: use as_lora=True")
    tensors = {f"{path}.hra_u": layer.adapter.lora_U.t() for path, layer in layers.items()}
    return {"kind": "HRAConfig", **_most(ranks, "r", None)}, tensors


OWN_FORM: dict[type[Variant], Callable] = {
    LoRA: _as_plain_lora,
    EVA: _as_plain_lora,
    PiSSA: _as_plain_lora,
    DoRA: _as_dora,
    DeLoRA: _as_delora,
    IA3: _as_ia3,
    IA3FF: _as_ia3,
    HRA: _as_hra,
}


def _most(values: dict[str, float], name: str, pattern: str | None) -> dict[str, Any]:
    """{name: what most layers have, pattern: {path: what the others have}}."""
    plain = {path: int(v) if float(v).is_integer() else v for path, v in values.items()}
    ((common, _),) = Counter(plain.values()).most_common(1)
    others = {f"^{re.escape(path)}": v for path, v in plain.items() if v != common}
    return {name: common, **({pattern: others} if pattern else {})}


def _targets(model: nn.Module, paths: list[str], inputs: list[str] | None) -> dict[str, Any]:
    """What makes PEFT find these modules and no other: the short names that runtimes know, or else patterns.

    Args:
        inputs: those of the paths that IA3 gates on their input; None for another method. PEFT looks for them by
            the end of a name alone, and among names if the targets are names.
    """
    every = [name for name, _ in model.named_modules()]

    def found(names, dot):
        return {path for path in every if path in names or path.endswith(tuple(dot + name for name in names))}

    for chosen in (lambda path: path.rpartition(".")[2], lambda path: path):
        names, ends = sorted({chosen(path) for path in paths}), sorted({chosen(path) for path in inputs or ()})
        if found(names, ".") == set(paths) and found(ends, "") == set(inputs or ()):
            break
    else:
        names, ends = ("|".join(map(re.escape, some)) or "(?!)" for some in (paths, inputs or ()))
    return {"target_modules": names} | ({} if inputs is None else {"feedforward_modules": ends})


def _write_folder(model: nn.Module, folder: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    peft = _peft()
    kind = getattr(peft, config.pop("kind"))
    source = getattr(getattr(model, "config", None), "_name_or_path", None)
    task = "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None
    made = kind(base_model_name_or_path=source or None, task_type=task, inference_mode=True, **config)
    # PEFT's own writer also notes its version; sets are its lists.
    text = json.dumps(made.to_dict(), indent=2, sort_keys=True, default=lambda value: sorted(value))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdapterFileError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    write(folder / TENSORS, to_bytes(tensors, {"format": "pt"}))
    write(folder / CONFIG, (text + "\n").encode())


# ---- from PEFT ------------------------------------------------------------------------------------


def from_peft(model: nn.Module, folder: str | os.PathLike) -> Adapter:
    """Attach a PEFT adapter from its folder, and return a handle over all of it.

    One pass per distinct rank and alpha. The paths come from the tensors' names, so patterns of targets and layers
    in the configuration are not needed. Nothing has changed if it raises.

    Raises:
        ValueError: the model has adapters already.
        AdapterFileError: a file is missing or cannot be read, does not fit this model, or holds what there is no
            variant for: another method, dropout, trained biases or embeddings, options that change the equation.
    """
    if adapted_layers(model):
        raise ValueError("the model has adapters already: detach them, then load")
    folder = Path(folder)
    config, tensors = _read_config(folder), _read_tensors(folder)
    _refuse_options(config)
    layers = dict(named_layers(model))
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, short = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or short not in NAMES[config.peft_type]:
            raise AdapterFileError(f"the file holds {name!r}, which is no tensor of {_kind(config)} on a linear layer")
        if path not in layers:
            raise AdapterFileError(f"the file adapts {path!r}, which this model does not have as a linear layer")
        if hasattr(layers[path], "adapter"):
            raise AdapterFileError(f"{path!r} has an attribute `adapter` of its own: it cannot be adapted")
        if not tensor.isfinite().all():
            raise AdapterFileError(f"{name!r} holds values that are not finite")
        found.setdefault(path, {})[short] = tensor
    if not found:
        raise AdapterFileError(f"{folder / TENSORS} holds no tensor")
    passes: dict[tuple, dict[str, LayerAdapter]] = {}
    for path in (path for path in layers if path in found):  # in model order
        try:
            with at_hand(layers[path], path):
                variant, tensors, scale = FROM[config.peft_type](config, path, layers[path], found[path])
                adapter = _restore(variant, path, layers[path], tensors, scale)
                adapter.derive(layers[path])
        except AdapterFileError:
            raise
        except Exception as error:  # PEFT takes fields of any type: a pattern that is no pattern, an alpha that is text
            raise AdapterFileError(f"the layer {path!r} cannot be read from {folder}: {str(error)[:300]}") from error
        passes.setdefault((variant, scale), {})[path] = adapter
    return install(model, list(passes.values()))


def _kind(config) -> str:
    return f"PEFT's {config.peft_type.value}"


def _read_config(folder: Path):
    peft = _peft()
    if not (folder / CONFIG).is_file():
        raise AdapterFileError(f"there is no file {folder / CONFIG}: pass the folder of a PEFT adapter")
    try:
        fields = json.loads((folder / CONFIG).read_text("utf-8"))
        kind = fields["peft_type"]
        if kind not in NAMES:
            raise AdapterFileError(f"{folder} holds PEFT's {kind}: there is a variant for {', '.join(NAMES)} only")
        return peft.PeftConfig.from_pretrained(str(folder))
    except AdapterFileError:
        raise
    except Exception as error:  # whatever PEFT makes of a damaged configuration
        raise AdapterFileError(f"{folder / CONFIG} is no PEFT configuration: {error}") from error


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file() and (folder / "adapter_model.bin").exists():
        raise AdapterFileError(f"there is no file {path} (adapter_model.bin is a pickle and is not read)")
    return read(path)[1]


# What from_peft reads, or what says nothing about the equation of trained weights.
KNOWN = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules", "exclude_modules",
    "feedforward_modules", "layers_to_transform", "layers_pattern", "delora_lambda", "lambda_pattern", "eva_config",
    "init_lora_weights", "init_weights", "init_ia3_weights", "task_type", "peft_type", "auto_mapping", "revision",
    "peft_version", "base_model_name_or_path", "inference_mode",
}  # fmt: skip
# Starts that change the base weight, so that A and B mean nothing without what was taken out of it.
RESIDUAL_STARTS = ("olora", "loftq", "corda", "lora_ga")


def _refuse_options(config) -> None:
    for field in dataclasses.fields(config):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = getattr(config, field.name)
        if field.name not in KNOWN and value != default and not (value in (None, [], {}) and default in (None, [], {})):
            hint = ": set it to 0 in the configuration to run the adapter as it is" if "dropout" in field.name else ""
            raise AdapterFileError(f"{_kind(config)} with {field.name} = {value!r} is not supported{hint}")
    start = getattr(config, "init_lora_weights", True)
    if isinstance(start, str) and start.startswith((*RESIDUAL_STARTS, "pissa_")):
        raise AdapterFileError(
            f"init_lora_weights = {start!r} takes something out of the base weight that cannot be made again exactly: "
            "convert the adapter to a plain LoRA with PEFT (save_pretrained's path_initial_model_for_weight_conversion)"
        )


def _from_lora(config, path, layer, tensors):
    A, B, m = _take(path, tensors, "lora_A", "lora_B", optional="lora_magnitude_vector")
    r = _rank(config, path, A)
    alpha = _pattern_value(config.alpha_pattern, path, config.lora_alpha)
    scale = alpha / (math.sqrt(r) if config.use_rslora else r)
    fields = {"r": r, "alpha": alpha, "rslora": bool(config.use_rslora)}
    if config.use_dora:
        if m is None or config.init_lora_weights == "pissa":
            raise AdapterFileError(f"the layer {path!r} has no lora_magnitude_vector of a plain DoRA")
        return _make(DoRA, path, fields), {"lora_A": A, "lora_B": B, "lora_m": m.flatten()}, scale
    if m is not None:
        raise AdapterFileError(f"the layer {path!r} has a lora_magnitude_vector, but use_dora is false")
    found = {"lora_A": A, "lora_B": B}
    if config.init_lora_weights == "pissa":  # the file's A and B belong to the residual of PEFT's own SVD
        variant = _make(PiSSA, path, fields)
        wide = torch.promote_types(A.dtype, torch.float32)  # as PEFT's, whatever the file was rounded to
        start = LayerAdapter(variant, path, _empty(variant, path, layer, wide), set(), scale)
        with torch.no_grad(), full_precision(layer.weight.device):
            variant.init(start, layer)
        return variant, found | {"lora_A0": start.lora_A0, "lora_B0": start.lora_B0}, scale
    if config.init_lora_weights == "eva":
        rho = float(getattr(config.eva_config, "rho", 1.0))
        return _make(EVA, path, fields | {"center": True, "rho": rho}), found, scale
    return _make(LoRA, path, fields), found, scale


def _empty(variant, path, layer, dtype):
    return {name: spec.make_tensor(dtype, layer.weight.device) for name, spec in specs_of(variant, path, layer).items()}


def _from_delora(config, path, layer, tensors):
    A, B, strength, wnorm = _take(path, tensors, "delora_A", "delora_B", "delora_lambda", "delora_w_norm")
    lambda0 = float(_pattern_value(config.lambda_pattern, path, config.delora_lambda))
    found = {"lora_A": A, "lora_B": B, "lora_lambda": strength.reshape(1), "lora_wnorm": wnorm}
    return _make(DeLoRA, path, {"r": _rank(config, path, A), "lambda0": lambda0}), found, 1.0


def _from_ia3(config, path, layer, tensors):
    (gates,) = _take(path, tensors, "ia3_l")
    side = IA3FF if gates.dim() == 2 and len(gates) == 1 and layer.out_features != 1 else IA3
    return side(), {"lora_g": gates.flatten()}, 1.0


def _from_hra(config, path, layer, tensors):
    (u,) = _take(path, tensors, "hra_u")
    return _make(HRA, path, {"r": u.shape[-1]}), {"lora_U": u.t()}, 1.0


NAMES = {
    "LORA": {"lora_A", "lora_B", "lora_magnitude_vector"},
    "DELORA": {"delora_A", "delora_B", "delora_lambda", "delora_w_norm"},
    "IA3": {"ia3_l"},
    "HRA": {"hra_u"},
}
FROM = {"LORA": _from_lora, "DELORA": _from_delora, "IA3": _from_ia3, "HRA": _from_hra}


def _take(path: str, tensors: dict[str, Tensor], *names: str, optional: str | None = None) -> list[Tensor | None]:
    for name in names:
        if name not in tensors:
            raise AdapterFileError(f"the layer {path!r} has no {name} in the file")
    matrices = [t for name, t in tensors.items() if name.endswith(("_A", "_B", "hra_u")) and t.dim() != 2]
    if matrices:
        raise AdapterFileError(f"the layer {path!r} has a matrix of shape {tuple(matrices[0].shape)} in the file")
    return [tensors[name] for name in names] + ([tensors.get(optional)] if optional else [])


def _pattern_value(pattern: dict | None, path: str, otherwise: float) -> float:
    """PEFT's rule: the first key that matches the end of the path."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return otherwise


def _rank(config, path: str, A: Tensor) -> int:
    declared = _pattern_value(config.rank_pattern, path, config.r)
    if declared != len(A):
        raise AdapterFileError(
            f"the layer {path!r} has rank {len(A)} in the file and {declared!r} in the configuration"
        )
    return declared


def _make(kind: type[Variant], path: str, fields: dict[str, Any]) -> Variant:
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise AdapterFileError(f"the layer {path!r} is no {kind.name} of ours: {error}") from error


def _restore(variant: Variant, path: str, layer: nn.Module, tensors: dict[str, Tensor], scale: float) -> LayerAdapter:
    try:
        specs = specs_of(variant, path, layer)
    except ValueError as error:
        raise AdapterFileError(str(error)) from error
    if other := {t.dtype for t in tensors.values()} - set(DTYPES):
        raise AdapterFileError(f"the layer {path!r} is stored in {other.pop()}, which is no dtype of adapters")
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors.values()))  # which loses nothing
    stored = {}
    for name, spec in specs.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != spec.shape:
            raise AdapterFileError(
                f"{name} of {path!r} is {tuple(tensor.shape)} in the file; this model needs {spec.shape}"
            )
        stored[name] = tensor.detach().to(layer.weight.device, spec.storage_dtype(dtype), copy=True).contiguous()
    return LayerAdapter(variant, path, stored, buffers_of(specs), scale)


# ---- PEFT's own layers, beside ours -----------------------------------------------------------------


def knows(variant: Variant) -> bool:
    """Whether PEFT has this variant with these fields."""
    return type(variant) in OWN_FORM and (
        not isinstance(variant, DeLoRA) or (variant.start, variant.norm) == ("zero", "column")
    )


def wrap(model: nn.Module, variant: Variant, paths: list[str], calibration_data: list | None = None) -> nn.Module:
    """PEFT's own adapter of the kind of `variant`, on the layers of these paths: what to compare ours with.

    Args:
        model: changed in place, as get_peft_model does.
        calibration_data: batches that `model` takes as its one argument; EVA alone starts from data.

    Returns:
        The PeftModel.

    Raises:
        ValueError: PEFT does not have this variant with these fields.
        ImportError: PEFT is not installed.
    """
    if not knows(variant):
        raise ValueError(f"PEFT has no {variant}")
    peft, fields = _peft(), {"target_modules": paths}
    if isinstance(variant, HRA):
        config = peft.HRAConfig(r=variant.r, **fields)
    elif isinstance(variant, DeLoRA):
        config = peft.DeloraConfig(r=variant.r, delora_lambda=variant.lambda0, **fields)
    elif isinstance(variant, IA3 | IA3FF):
        config = peft.IA3Config(feedforward_modules=paths if isinstance(variant, IA3FF) else [], **fields)
    else:
        fields |= {"r": variant.r, "use_rslora": variant.rslora, "use_dora": isinstance(variant, DoRA)}
        fields["lora_alpha"] = variant.r if variant.alpha is None else variant.alpha
        if isinstance(variant, PiSSA):
            fields["init_lora_weights"] = "pissa"
        if isinstance(variant, EVA):
            fields |= {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=variant.rho)}
        config = peft.LoraConfig(**fields)
    wrapped = peft.get_peft_model(model, config)
    if isinstance(variant, EVA):
        start_eva(wrapped, calibration_data)
    return wrapped


def start_eva(wrapped: nn.Module, batches: list) -> None:
    """EVA's start of PEFT's layers, from batches that the model takes as its one argument."""
    _peft().initialize_lora_eva_weights(
        wrapped,
        batches,
        forward_fn=lambda wrapped, batch: wrapped(batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=lambda inputs, *_: inputs[0].flatten(0, -2),
        show_progress_bar=False,
    )
