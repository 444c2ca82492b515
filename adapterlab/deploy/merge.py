"""`adapterlab merge FILE --out FOLDER`: the base with the adapter folded in, a model like any other."""

import torch
from torch import Tensor

from .command import EMBEDDED, adapter_file, base_of, guarded, loaded, new_folder, parser, require_room, takes_place


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


def merged(file, name: str | None, dtype: str, folder) -> float:
    """Write the merged model and its tokenizer to `folder`.

    Returns:
        how far its logits are from those of the model with the adapter, relative to their norm.

    Raises:
        ValueError: the adapter does not fit the base or cannot be merged.
    """
    from ..runtime import merge

    model, tokenizer = loaded(file, name, dtype)
    before = _logits(model)
    merge(model)
    after = _logits(model)
    require_room(folder, sum(t.nbytes for t in model.state_dict().values()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ((after - before).norm() / before.norm()).item()


@torch.no_grad()
def _logits(model) -> Tensor:
    """Of some tokens: (2, 16, vocabulary), float64."""
    tokens = torch.randint(model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    return model(input_ids=tokens).logits.double()
