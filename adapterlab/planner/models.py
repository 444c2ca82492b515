"""Configurations of causal LMs: three by name, any other from its config.json. Numbers, no weights."""

import json
from pathlib import Path

LLAMA = {"vocab_size": 128_256, "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5}
# hidden_size, intermediate_size, blocks, heads, key-value heads, tied embeddings: as their config.json say.
SIZES = {
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, True),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, False),
    "llama-3.1-70b": (8192, 28_672, 80, 64, 8, False),
}


def config(name: str):
    """transformers' configuration of that name, of a folder, or of a config.json.

    Raises:
        ValueError: there is none, or it is of no causal LM.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    if name in SIZES:
        hidden, intermediate, blocks, heads, kv_heads, tied = SIZES[name]
        rope = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
        return LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
            **rope,
        )
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--model {name}: name one of {', '.join(SIZES)}, or a config.json, or a folder with one")
    try:
        fields = json.loads(file.read_text("utf-8"))
        found = AutoConfig.for_model(fields.pop("model_type"), **fields)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{file} is no configuration that transformers knows: {error}") from None
    if type(found) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"{file} is of a {found.model_type}, and there is no causal LM of that kind")
    return found
