"""bitsandbytes' repacking of 4-bit weights on every machine: real where the processor has AVX512-BF16, else simulated.

The simulation runs bitsandbytes' own repacking, which is plain torch and is switched on by a flag of the layer. Only
the kernel that then multiplies is another one, with what matters of the real one: bfloat16, and no backward pass.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from .exhibit import replaced

REAL = "This processor has AVX512-BF16: bitsandbytes repacks 4-bit weights on it."
SIMULATED = (
    "This processor has no AVX512-BF16, so bitsandbytes would repack nothing. From here on that is simulated: "
    "its own repacking, switched on, and a kernel that has no backward pass, as the real one has none."
)


def is_real() -> bool:
    """Whether this processor repacks by itself."""
    import bitsandbytes

    return bitsandbytes.functional.gemv_4bit is not simulated_kernel and bool(bitsandbytes.nn.modules.has_avx512bf16())


@contextmanager
def repacking() -> Iterator[None]:
    """Inside, 4-bit layers that are made there repack at their first forward pass in eval mode."""
    import bitsandbytes

    with ExitStack() as stack:
        if not bitsandbytes.nn.modules.has_avx512bf16():
            stack.enter_context(replaced(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True))
            stack.enter_context(replaced(bitsandbytes.functional, "gemv_4bit", simulated_kernel))
        yield


_session = ExitStack()


def start() -> str:
    """`repacking`, up to the end of the session. Says in a sentence whether it is real."""
    _session.enter_context(repacking())
    return REAL if is_real() else SIMULATED


def simulated_kernel(A, B, out=None, transposed_A=False, transposed_B=False, state=None):
    """bitsandbytes.functional.gemv_4bit. A (..., d_in), B the repacked codes."""
    return _operator()(A, B, state.absmax, state.code, list(state.shape), state.blocksize)


@functools.cache
def _operator():
    """An operator without an autograd kernel, as bitsandbytes' is: gradients end there, and a warning says so."""
    _operator.library = torch.library.Library("adapterlab_museum", "DEF")
    _operator.library.define("gemv_4bit(Tensor x, Tensor w, Tensor s, Tensor code, int[] shape, int block) -> Tensor")
    _operator.library.impl("gemv_4bit", _multiply, "CPU")
    return torch.ops.adapterlab_museum.gemv_4bit.default


def _multiply(x, packed, scales, code, shape, block):
    (d_out, d_in), dtype = shape, x.dtype
    out = torch.empty(x.shape[:-1].numel(), d_out, dtype=dtype)
    with torch.no_grad():
        halves = packed.reshape(-1, 32)  # low and high halves of the bytes of 32 rows
        codes = torch.cat([halves & 15, halves >> 4], 1).view(d_out // 32, d_in // 2, 32, 2).transpose(1, 2)
        W = code[codes.reshape(d_out, d_in).long()].bfloat16() * scales.T.repeat_interleave(block, 1)
        out.copy_(x.reshape(-1, d_in).bfloat16() @ W.T)
    return out.reshape(*x.shape[:-1], d_out)  # of a fresh tensor, as the real one: adding a bias in place then raises
