"""The base model as one file for the page: what model.js reads.

It is a safetensors file: the package's float16 weights byte for byte, and in the header's metadata the numbers of
config.json and the tokenizer. Imports nothing of the package, so that the book's build need not load torch for it.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

NAME = "base-model.safetensors"
KEY = "adapterlab"  # in the header's __metadata__, whose values are strings: JSON within JSON

BASE = Path(__file__).resolve().parent.parent / "data" / "base"

# What model.js is told, and what it takes for granted.
TOLD = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
)
GRANTED = {"model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": True}


@lru_cache(maxsize=1)
def model_bytes(base: Path = BASE) -> bytes:
    """The file's bytes: the same for the same base model.

    Raises:
        ValueError: the base model is of a kind that model.js does not compute.
    """
    file = (base / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    told = {"config": _config(base), "tokenizer": _tokenizer(base)}
    header["__metadata__"] = {KEY: json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # the format pads with spaces, so that numbers lie on even addresses
    return len(text).to_bytes(8, "little") + text + file[start:]


def _config(base: Path) -> dict[str, Any]:
    config = json.loads((base / "config.json").read_text("utf-8"))
    rope = config["rope_parameters"]
    wrong = [name for name, value in GRANTED.items() if config[name] != value]
    if wrong or rope["rope_type"] != "default":
        raise ValueError(f"model.js computes a Llama with {GRANTED} and plain RoPE, not {[*wrong, rope]}")
    return {**{name: config[name] for name in TOLD}, "rope_theta": rope["rope_theta"]}


def _tokenizer(base: Path) -> dict[str, Any]:
    """The vocabulary in the order of its ids, the merges in the order of their ranks, the ids that are no text."""
    found = json.loads((base / "tokenizer.json").read_text("utf-8"))
    steps = found["pre_tokenizer"]["pretokenizers"]
    known = (
        found["normalizer"] is None
        and [step["type"] for step in steps] == ["Digits", "ByteLevel"]
        and steps[0]["individual_digits"]
        and steps[1]["use_regex"]
        and not steps[1]["add_prefix_space"]
        and found["model"]["type"] == "BPE"
        and not found["model"]["ignore_merges"]
        # The beginning mark, then the text.
        and [next(iter(part)) for part in found["post_processor"]["single"]] == ["SpecialToken", "Sequence"]
    )
    if not known:
        raise ValueError("model.js knows byte-level BPE over single digits, and this tokenizer is another")
    vocab = found["model"]["vocab"]
    return {
        "vocab": sorted(vocab, key=vocab.get),
        "merges": [" ".join(pair) for pair in found["model"]["merges"]],
        "special": [token["id"] for token in found["added_tokens"]],
    }
