"""What a training step of one linear layer keeps and multiplies, by formula: for sizes that nobody has to build.

A term is a product, written with spaces: of numbers, and of

    n  tokens      d  features, in and out     r  rank, of those that have one
    e  bytes of a number of the base           l  1 where the base is in less than float32, else 0; f  the contrary

Adapters are in float32, the layer has a bias, AntiPaSTO has blocks of 4. The interactive figure
of the chapter "What it costs" reads the same tables.
"""

import math

KEPT: dict[tuple[str, str], list[tuple[str, str]]] = {}  # (variant, by) -> what is kept, its bytes
MULTIPLIED: dict[tuple[str, str], list[tuple[str, str]]] = {}  # what for, multiply-adds beyond the frozen layer's

_X = ("x", "e n d")
_X_WIDE = ("x in float32", "4 n d")
_H = ("x Aᵀ", "4 n r f")  # a base in lower precision has it computed again
_THIN = [("the thin products, forward and back", "6 n d r"), ("x Aᵀ once more", "n d r l")]

KEPT["lora", "adapterlab"] = KEPT["eva", "adapterlab"] = [_X, _H]
KEPT["pissa", "adapterlab"] = [_X, ("x Aᵀ, 2r wide", "8 n r f"), ("the two factors of rank 2r", "16 d r")]
KEPT["dora", "adapterlab"] = [_X, ("y", "e n d"), _H, ("norms and their quotients", "9 d")]
KEPT["delora", "adapterlab"] = [_X, _H, ("the two scaled factors", "8 d r"), ("norms of rows", "24 r"), ("lambda", "4")]
KEPT["ia3", "adapterlab"] = [("y", "e n d")]
KEPT["ia3_ff", "adapterlab"] = [_X]
KEPT["hra", "adapterlab"] = [_X, ("x (T Q)ᵀ", "4 n r f"), ("Q and T Q", "8 d r"), ("T", "8 r r"), ("lengths", "9 r")]
KEPT["antipasto", "adapterlab"] = [
    ("x", "e n d l"),
    ("x Vhᵀ", "4 n r f"),
    ("U times the core", "4 d r"),
    ("the core's blocks", "72 r"),
    ("their mask", "16"),
]
KEPT["lora", "peft"] = KEPT["eva", "peft"] = KEPT["pissa", "peft"] = [_X_WIDE, ("x Aᵀ", "4 n r")]
KEPT["dora", "peft"] = [_X_WIDE, ("y less the bias", "e n d"), ("B A x", "4 n d"), ("x Aᵀ", "4 n r"), ("norms", "12 d")]
KEPT["delora", "peft"] = [
    ("x times |W|, in float32", "4 n d"),
    ("x Aᵀ, unscaled and scaled", "8 n r"),
    ("norms of rows", "24 r"),
    ("lambda", "4"),
]
KEPT["ia3", "peft"] = [("y", "e n d"), ("a copy of the gates", "4 d")]
KEPT["ia3_ff", "peft"] = [_X_WIDE, ("a copy of the gates", "4 d")]
KEPT["hra", "peft"] = [
    ("products of mirrors, d × d each", "4 d d r"),
    ("an identity and W R, d × d each", "8 d d"),
    ("W in float32", "4 d d l"),
    _X_WIDE,
    ("unit rows", "8 d r"),
    ("lengths", "4 r"),
]

MULTIPLIED["lora", "adapterlab"] = MULTIPLIED["eva", "adapterlab"] = MULTIPLIED["delora", "adapterlab"] = _THIN
MULTIPLIED["pissa", "adapterlab"] = [("the thin products, 2r wide", "12 n d r"), ("x Aᵀ once more", "2 n d r l")]
MULTIPLIED["dora", "adapterlab"] = [
    ("the thin products, forward and back", "6 n d r"),
    ("y once more", "3 n d r l"),
    ("W Aᵀ for the norm", "d d r"),
    ("the Gram matrix", "2 d r r"),
]
MULTIPLIED["ia3", "adapterlab"] = MULTIPLIED["ia3_ff", "adapterlab"] = []
MULTIPLIED["hra", "adapterlab"] = [*_THIN, ("Q Qᵀ and T Q", "6 d r r"), ("T", "r r r")]
MULTIPLIED["antipasto", "adapterlab"] = [
    ("the thin products: Vh is frozen", "5 n d r"),
    ("x Vhᵀ once more, and its gradient", "2 n d r l"),
    ("U times the core", "8 d r"),
    ("the core's blocks", "16 r"),
]
for _name in ("lora", "eva", "pissa", "delora"):
    MULTIPLIED[_name, "peft"] = _THIN[:1]
MULTIPLIED["dora", "peft"] = [_THIN[0], ("B A, out of an identity", "2 d d r")]
MULTIPLIED["ia3", "peft"] = MULTIPLIED["ia3_ff", "peft"] = []
MULTIPLIED["hra", "peft"] = [
    ("products of d × d matrices", "4 d d d"),
    ("the gradient of W R", "n d d"),
    ("mirrors into the product", "6 d d r"),
    ("less the first", "-1 d d"),
]


def value(term: str, n: int, d: int, r: int, base_bytes: int = 4) -> int:
    names = {"n": n, "d": d, "r": r, "e": base_bytes, "f": int(base_bytes == 4), "l": int(base_bytes != 4)}
    return math.prod(names[factor] if factor in names else int(factor) for factor in term.split())


def kept(variant: str, by: str, n: int, d: int, r: int, base_bytes: int = 4) -> int:
    """Bytes that one d x d layer keeps for the backward pass beyond what the frozen layer does.

    Args:
        by: "adapterlab", or "peft" for what version 0.21 does.
        base_bytes: of one number of the base: 4 in float32, 2 in bfloat16 and float16.
    """
    return sum(value(term, n, d, r, base_bytes) for _, term in KEPT[variant, by])


def multiplied(variant: str, by: str, n: int, d: int, r: int, base_bytes: int = 4) -> int:
    """Multiply-adds of a training step in products of matrices, beyond the frozen layer's own 2 n d d."""
    return sum(value(term, n, d, r, base_bytes) for _, term in MULTIPLIED[variant, by])
