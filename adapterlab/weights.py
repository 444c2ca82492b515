"""How a layer stores its weight: the only file that knows."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

ROWS = 512  # per chunk when a low-precision weight is read in float32: bounds the temporary


def is_linear_like(module: nn.Module) -> bool:
    """By structure (in_features, out_features, weight), so that quantised layers count.

    MultiheadAttention's out_proj is left out: its weight is used without calling it, so a hook on it
    would silently never run.
    """
    has_shape = isinstance(getattr(module, "in_features", None), int) and isinstance(
        getattr(module, "out_features", None), int
    )
    weight = getattr(module, "weight", None)
    return has_shape and isinstance(weight, Tensor) and not isinstance(module, NonDynamicallyQuantizableLinear)


def storage(layer: nn.Module) -> str:
    """ "dense", or how a quantised layer stores its weight: "4-bit" and "int8" (bitsandbytes), "torchao"."""
    kind = type(layer.weight)
    if kind is nn.Parameter or kind is Tensor:  # torch.compile cannot trace what follows
        return "dense"
    known = {"Params4bit": "4-bit", "Int8Params": "int8"}  # by name: nothing is imported that is not in use
    return known.get(kind.__name__) or ("torchao" if kind.__module__.startswith("torchao.") else "dense")


def dense_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer multiplies by, as a dense (d_out, d_in) tensor, detached; never write to it.

    Of a dense layer the weight itself; of a quantised one a float32 copy, made anew at each call.

    Raises:
        TypeError: the layer stores its weight in a way that is not known here, or is not quantised yet.
    """
    read = {"4-bit": _dense_4bit, "int8": _dense_int8, "torchao": _dense_torchao}.get(storage(layer), _dense)
    with torch.no_grad():
        return read(layer)


def stored_weight(layer: nn.Module) -> Tensor:
    """`dense_weight`, but of a 4-bit layer with its scales in bf16: repacking (below) may round them so at any forward
    pass, and this is the same before and after."""
    if storage(layer) != "4-bit":
        return dense_weight(layer)
    with torch.no_grad():
        return _dense_4bit(layer, torch.bfloat16)


def merged_dtype(layer: nn.Module) -> torch.dtype:
    """Of the weight that merging gives the layer: its own, or the one that a quantised layer computes in."""
    if storage(layer) == "dense":
        return layer.weight.dtype
    computes = [layer.bias.dtype if layer.bias is not None else None, getattr(layer, "compute_dtype", None)]
    return next((dtype for dtype in computes if dtype is not None), torch.float32)


def _dense(layer: nn.Module) -> Tensor:
    weight = layer.weight
    if tuple(weight.shape) != (layer.out_features, layer.in_features) or not weight.is_floating_point():
        raise TypeError(
            f"{type(layer).__name__} stores a weight of shape {tuple(weight.shape)} and {weight.dtype} for "
            f"{layer.in_features} -> {layer.out_features} features: only dense floating-point weights and those of "
            "bitsandbytes' 4-bit and 8-bit and torchao's int8 layers are supported"
        )
    return weight.detach()


def _not_quantised(layer: nn.Module) -> TypeError:
    return TypeError(
        f"this {type(layer).__name__} is not quantised yet: bitsandbytes does it when the model is moved to a device, "
        'so call model.to("cpu") or model.to("cuda") first'
    )


def _dense_4bit(layer: nn.Module, scales: torch.dtype = torch.float32) -> Tensor:
    from bitsandbytes import functional

    state, data = layer.weight.quant_state, layer.weight.data
    if state is None:
        raise _not_quantised(layer)
    if _is_repacked(state):
        data, state = _unpacked(data, state)
    state = copy.copy(state)
    if state.nested:
        state.absmax, state.nested = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset, False
    state.absmax = state.absmax.to(scales).float()
    state.dtype = torch.float32  # its own would round to the dtype that was quantised
    return functional.dequantize_4bit(data, state)


def _dense_int8(layer: nn.Module) -> Tensor:
    # The scales sit on the weight before the first forward pass, and on the layer's state after it.
    scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    if scales is None or layer.weight.dtype != torch.int8:
        raise _not_quantised(layer)
    return layer.weight.data.float() * (scales.float() / 127.0)[:, None]


def _dense_torchao(layer: nn.Module) -> Tensor:
    return layer.weight.detach().dequantize().float()


# ---- bitsandbytes' repacking ----------------------------------------------------------------------
#
# On CPUs with AVX512-BF16, the first 4-bit forward pass in eval mode rewrites the weight for a kernel that has no
# backward pass: gradients end there, with a warning at most, and the usual dequantisation reads garbage.


def stop_repacking(model: nn.Module) -> dict[str, nn.Module]:
    """Keep all 4-bit layers of a model as they are from now on, and undo what has happened already.

    All of them: gradients end at a frozen layer as they do at an adapted one.

    Returns:
        path -> layer of those in which it was switched on.
    """
    stopped = {}
    for path, layer in model.named_modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False) and storage(layer) == "4-bit":
            if _is_repacked(layer.weight.quant_state):
                layer.weight.data, state = _unpacked(layer.weight.data, layer.weight.quant_state)
                layer.weight.quant_state = layer.quant_state = state
            layer.support_avx512bf16_for_cpu = False
            stopped[path] = layer
    return stopped


def resume_repacking(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True


def _is_repacked(state) -> bool:
    return bool(getattr(state, "packing_format_for_cpu", False))


def _unpacked(data: Tensor, state):
    """Data and state as they were quantised, but that the scales have been through bf16 (0.4 % at most of each weight)
    and are not quantised a second time: repacked once more, they are bit for bit what they are now."""
    from bitsandbytes import functional

    state = copy.copy(state)
    scales, state.original_nested = state.absmax.T.float().reshape(-1), False
    data, state = functional._convert_weight_packed_for_cpu_inverse(data, state)
    state.absmax, state.nested = scales, False  # the library's inverse forgets the scales
    return data, state


# ---- sums over a weight ---------------------------------------------------------------------------


def precision(layer: nn.Module) -> str:
    """What its values were rounded to: "4-bit", "int8" (torchao's among them), "bf16", "fp16" or "fp32". float64
    counts as fp32, as which it is compared."""
    if (kind := storage(layer)) != "dense":
        return "4-bit" if kind == "4-bit" else "int8"
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(layer.weight.dtype, "fp32")


def row_squares(W: Tensor, dtype: torch.dtype) -> Tensor:
    """(d_out,): the squared norm of each row, summed in `dtype`."""
    return torch.cat([rows.to(dtype).square().sum(1) for rows in W.split(ROWS)])


def column_squares(W: Tensor, dtype: torch.dtype) -> Tensor:
    """(d_in,): the squared norm of each column, summed in `dtype`."""
    return torch.stack([rows.to(dtype).square().sum(0) for rows in W.split(ROWS)]).sum(0)


def times(W: Tensor, M: Tensor) -> Tensor:
    """W M in M's dtype, without a full copy of a W of another dtype. W (d_out, d_in), M (d_in, k)."""
    if W.dtype == M.dtype:
        return W @ M
    return torch.cat([rows.to(M.dtype) @ M for rows in W.split(ROWS)])
