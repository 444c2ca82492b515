"""`adapterlab merge FILE --out FOLDER`: the base with the adapter folded in, a model like any other."""

import torch
from torch import Tensor

from ..files import AdapterFileError
from .command import (
    EMBEDDED,
    adapter_file,
    base_of,
    first_line,
    guarded,
    loaded,
    new_folder,
    parser,
    require_room,
    takes_place,
)


def main(arguments: list[str] | None = None) -> int:
    made = parser("adapterlab merge", "Fold an adapter into its base and save the model that results.")
    takes_place(made)
    options = made.parse_args(arguments)

    def act() -> None:
        file = adapter_file(options.file)
        name = base_of(file, options.model)
        with new_folder(options.out) as staging:
            distance = merged(file, name, options.dtype, staging)
        print(f"{options.out}: {name or EMBEDDED} with the adapter folded in, a folder for `from_pretrained`")
        print(f"its logits differ from the adapter's by {distance:.1e} of their norm: the rounding of its weights")

    return guarded("adapterlab merge", act)


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.05}


def merged(file, name: str | None, dtype: str, folder) -> float:
    """Write the merged model and its tokenizer to `folder`, load it from there, and compare.

    Args:
        dtype: that it is saved in; another than the base's own is taken once, after the merge.

    Returns:
        how far its logits are from those of the model with the adapter, relative to their norm.

    Raises:
        ValueError: the adapter does not fit the base or cannot be merged.
        AdapterFileError: it cannot be written, or what was written computes something else.
    """
    from transformers import AutoModelForCausalLM

    from ..runtime import merge

    model, tokenizer = loaded(file, name, "auto" if dtype == "auto" else "float32")
    before = _logits(model)
    merge(model)
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))
    kept = model.dtype
    require_room(folder, sum(t.nbytes for t in model.state_dict().values()))
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # safetensors has a kind of its own
        raise AdapterFileError(f"the model cannot be written: {first_line(error)}") from error
    del model
    after = _logits(AutoModelForCausalLM.from_pretrained(folder, dtype=kept).eval())
    distance = ((after - before).norm() / before.norm()).item()
    if not distance <= TOLERANCE[kept]:
        raise AdapterFileError(
            f"the merged model's logits are off by {distance:.1e} of their norm in {str(kept)[6:]}, more than rounding "
            "explains: --dtype float32 is exact"
        )
    return distance


@torch.no_grad()
def _logits(model) -> Tensor:
    """Of some tokens: (2, 16, vocabulary), float64."""
    tokens = torch.randint(model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    return model(input_ids=tokens).logits.double()
