"""A trained PEFT adapter of a reader's own, from its folder, as a subject: what its numbers do on its layers."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import AdapterFileError, read
from ..peft import CONFIG, PREFIX, TENSORS, _pattern_value, _peft
from .bases import Net, linear
from .finding import Broken, Finding
from .of_peft import OfPeft, OnPeft, do_not_repack, of_config
from .subject import NotApplicable

TRAINED = "it is trained: it does not start here"
METHOD = "it is a question to the method, not to trained numbers: check peft:NAME"
NAMELESS = "PEFT's files do not say which base they belong to, beyond its name"
LAYERS = 3  # that are judged: of different shapes, the smallest first
OTHER = 7  # the seed that `wrong_base` takes


class OnFolder(OnPeft):
    def move_far(self, seed=0):
        """Training has."""


class OfFolder(OfPeft):
    """One PEFT checkpoint, layer by layer: each is put on a model of one layer with its own numbers.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        base: of a transformers model, whose layers it then stands on; None: on random layers of its shapes.

    Raises:
        AdapterFileError: a file is missing or cannot be read, nothing in it is a linear layer's, or it needs a base.
    """

    def __init__(self, folder: Path, base: Path | None = None):
        config, self.held = _read(folder)
        super().__init__(of_config(config).method, getattr(config, "r", None) or 4)
        self.label, self.config, self.folder = f"{folder} ({config.peft_type.value})", config, folder
        self.found = _by_path(self.held, None if base is None else _linear_layers(base, config))
        self.chosen: dict[tuple[int, int], str] = {}
        for path, (shape, _, _) in sorted(
            self.found.items(), key=lambda item: (item[1][0][0] * item[1][0][1], item[0])
        ):
            if len(self.chosen) < LAYERS:
                self.chosen.setdefault(shape, path)
        self.label += f", {len(self.found)} layers, judged on {', '.join(self.chosen.values())}"
        self.unfit = {
            **{name: TRAINED for name in ("identity", "gradients", "first_step", "moves", "start")},
            **{name: METHOD for name in ("fields", "ranks", "layers", "cancels")},
            "wrong_base": NAMELESS,
        }
        if any(side % 64 for side in self.shape):
            self.unfit["quantised"] = "its layers are too small to be stored in blocks of 64 and 32"

    shape = property(lambda self: next(iter(self.chosen)))
    shapes = property(lambda self: list(self.chosen))
    in_blocks = shape

    def base(self, shape=None, *, bias=True, dtype=torch.float32, seed=0, deep=False):
        d_in, d_out = shape or self.shape
        path = self.chosen.get((d_in, d_out), self.chosen[self.shape])
        layer = linear(d_in, d_out, bias=bias, dtype=dtype, seed=10 * seed + 1)
        held = self.found[path][1]
        if held is not None and seed != OTHER and held.weight.shape == layer.weight.shape:
            with torch.no_grad():
                layer.weight.copy_(held.weight)
                if bias and held.bias is not None:
                    layer.bias.copy_(held.bias)
        return Net(layer).eval()

    def _put_on(self, base, dtype, data):
        do_not_repack(base)
        layer = base.proj
        path = self.chosen.get((layer.in_features, layer.out_features))
        if path is None:
            raise NotApplicable(f"it holds no layer of {layer.in_features} -> {layer.out_features} features")
        wide = next(base.parameters()).dtype == torch.float64
        on = self._load(base.float() if wide else base, path, dtype)
        return OnFolder(base, (on.double() if wide else on).eval(), self.method)

    def _load(self, base: nn.Module, path: str, dtype: torch.dtype) -> nn.Module:
        config = copy.deepcopy(self.config)
        config.target_modules, config.inference_mode, config.task_type = ["proj"], False, None
        for name in ("rank_pattern", "alpha_pattern", "lambda_pattern"):
            if hasattr(config, name):
                field = {"rank_pattern": "r", "alpha_pattern": "lora_alpha", "lambda_pattern": "delora_lambda"}[name]
                if hasattr(config, field):
                    setattr(config, field, _pattern_value(getattr(config, name), path, getattr(config, field)))
                setattr(config, name, {})
        for name in ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save", "eva_config"):
            if hasattr(config, name):
                setattr(config, name, None)
        if hasattr(config, "feedforward_modules"):
            gates_input = any(t.dim() == 2 and len(t) == 1 for t in self.found[path][2].values())
            config.feedforward_modules = ["proj"] if gates_input else []
        if getattr(config, "init_lora_weights", None) == "eva":  # it starts from the file's numbers, as LoRA does
            config.init_lora_weights = True
        peft = _peft()
        model = peft.get_peft_model(base, config, autocast_adapter_dtype=dtype == torch.float32)
        numbers = {f"{PREFIX}proj.{name}": tensor for name, tensor in self.found[path][2].items()}
        outcome = peft.set_peft_model_state_dict(model, numbers)
        if outcome.unexpected_keys:
            raise Broken(f"PEFT has no place for {outcome.unexpected_keys[0]!r}")
        return model

    def load(self, base, path):
        wrapped = self.method.load(base, path)
        return OnFolder(base, wrapped.eval(), self.method)

    def with_rank(self, r):
        raise NotApplicable(METHOD)

    def file(self) -> Finding:
        """Of all layers, judged or not."""
        for name, tensor in self.held.items():
            if not tensor.isfinite().all():
                raise Broken(f"{name!r} holds numbers that are not finite")
        placed = sum(len(tensors) for _, _, tensors in self.found.values())
        if placed < len(self.held):
            raise NotApplicable(f"{len(self.held) - placed} of its {len(self.held)} tensors are of no linear layer")
        idle = [path for path, (_, _, tensors) in self.found.items() if not any(t.any() for t in tensors.values())]
        if idle:
            raise Broken(f"{len(idle)} layers hold nothing but zeros: {idle[0]!r}")
        return Finding(0.0, 0.0, f"{len(self.held)} tensors of {len(self.found)} layers")


# ---- reading --------------------------------------------------------------------------------------


def _read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    if not (folder / CONFIG).is_file():
        raise AdapterFileError(f"there is no file {folder / CONFIG}: pass the folder of a PEFT adapter")
    if not (folder / TENSORS).is_file():
        pickled = " (adapter_model.bin is a pickle and is not read)" if (folder / "adapter_model.bin").exists() else ""
        raise AdapterFileError(f"there is no file {folder / TENSORS}{pickled}")
    try:
        config = _peft().PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever PEFT makes of a damaged configuration
        raise AdapterFileError(f"{folder / CONFIG} is no PEFT configuration: {error}") from error
    if config.peft_type is None:
        raise AdapterFileError(f"{folder / CONFIG} is no PEFT configuration: it names no peft_type")
    tensors = {name: tensor.clone() for name, tensor in read(folder / TENSORS)[1].items()}
    if not tensors:
        raise AdapterFileError(f"{folder / TENSORS} holds no tensor")
    return config, tensors


def _linear_layers(base: Path, config: Any) -> dict[str, nn.Linear]:
    """Of a transformers model in a folder, by path."""
    if not (base / "config.json").is_file():
        raise AdapterFileError(f"there is no file {base / 'config.json'}: pass the folder of a transformers model")
    import transformers

    kinds = {"SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", "CAUSAL_LM": "AutoModelForCausalLM", None: "AutoModelForCausalLM"}
    kind = getattr(transformers, kinds.get(config.task_type, "AutoModel"))
    transformers.utils.logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(str(base), dtype=torch.float32)
    except Exception as error:
        raise AdapterFileError(f"{base} cannot be loaded by transformers: {error}") from error
    finally:
        transformers.utils.logging.enable_progress_bar()
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}


def _by_path(held: dict[str, Tensor], layers: dict[str, nn.Linear] | None):
    """path -> ((d_in, d_out), the base's layer or None, its tensors by the rest of their names)."""
    grouped: dict[str, dict[str, Tensor]] = {}
    if shared := [name for name in held if not name.startswith(PREFIX)]:
        raise AdapterFileError(f"{shared[0]!r} is shared by its layers: such an adapter is not judged layer by layer")
    for name, tensor in held.items():
        path, rest = _split(name.removeprefix(PREFIX), layers)
        if path is not None:
            grouped.setdefault(path, {})[rest] = tensor
    if not grouped:
        raise AdapterFileError("the file holds no tensor of a linear layer")
    found = {}
    for path, tensors in grouped.items():
        layer = None if layers is None else layers[path]
        shape = _shape(path, tensors) if layer is None else (layer.in_features, layer.out_features)
        found[path] = shape, layer, tensors
    return found


def _split(name: str, layers: dict[str, nn.Linear] | None) -> tuple[str | None, str]:
    if layers is not None:
        path = max((path for path in layers if name.startswith(f"{path}.")), key=len, default=None)
        if path is None:
            raise AdapterFileError(f"the file adapts {name!r}, which the base has not as a linear layer")
        return path, name[len(path) + 1 :]
    rest = name.removesuffix(".weight")
    path, _, last = rest.rpartition(".")
    known = {"lora_A", "lora_B", "lora_magnitude_vector", "delora_A", "delora_B", "delora_lambda", "delora_w_norm"}
    if last in known | {"ia3_l", "hra_u"}:
        return path, name[len(path) + 1 :]
    if last.startswith("lora_embedding"):
        return None, ""
    raise AdapterFileError(f"from {name!r} alone the layer's shape cannot be told: give its base with --base FOLDER")


def _shape(path: str, tensors: dict[str, Tensor]) -> tuple[int, int]:
    """(d_in, d_out), as far as the tensors say it; where they leave one open it is unlike the other."""
    plain = {name.removesuffix(".weight"): t for name, t in tensors.items()}
    if any(t.dim() > 2 for t in plain.values()):
        raise AdapterFileError(f"{path!r} is a convolution: give its base with --base FOLDER")
    for a, b in (("lora_A", "lora_B"), ("delora_A", "delora_B")):
        if a in plain and b in plain:
            return plain[a].shape[1], plain[b].shape[0]
    if "hra_u" in plain:
        return len(plain["hra_u"]), len(plain["hra_u"]) + 8
    if "ia3_l" in plain:
        rows, columns = plain["ia3_l"].shape if plain["ia3_l"].dim() == 2 else (len(plain["ia3_l"]), 1)
        return (columns, columns + 8) if rows == 1 else (rows + 8, rows)
    raise AdapterFileError(f"the tensors of {path!r} are incomplete: it has {', '.join(tensors)}")
