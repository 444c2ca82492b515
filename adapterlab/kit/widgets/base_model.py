"""For figures whose JavaScript asks the base model: `findModel` and `readAdapter` in model.js are the other side.

Where the model's bytes come from, without ever lying in a notebook:

- A page of the built book has no kernel. The file lies in its _static folder (book/_tools writes it at each build),
  and `findModel` fetches it when a figure first asks.
- In JupyterLab and Colab there is no such file. `findModel` sends the message {"type": "need-model"}, and
  `AsksBaseModel` answers {"type": "model"} with the bytes beside it. A message and not a synchronised trait: what is
  synchronised is stored in the notebook with the widget's state, 1.9 MB per figure.
- Neither answers (no network, no kernel, a kernel that is busy): `findModel` fails with one sentence for the reader,
  which the figure shows, and the next question tries again.
"""

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ... import effective_weight
from .asset import model_bytes


class AsksBaseModel:
    """Mixin, named before the widget's class, by which a running kernel hands the base model to the page.

    class Asking(AsksBaseModel, Figure, js="asking.js"): ...
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.on_msg(self._hand_over)

    def _hand_over(self, _, message: dict, buffers: list) -> None:
        if isinstance(message, dict) and message.get("type") == "need-model":
            self.send({"type": "model"}, [model_bytes()])


@torch.no_grad()
def pack_adapter(model: nn.Module, dtype: torch.dtype = torch.float16) -> bytes:
    """The attached adapters as bytes for `readAdapter`, of any variant: what each layer's W' and b' differ by.

    A difference of low rank is packed as A and B, DoRA's as A, B and one factor per row, any other as the dense W'.
    LoRA of rank 8 on all layers of the base model takes 156 KB in float16, and a figure's state is stored in the
    notebook: adapt few layers, or choose a small rank.
    """
    packed = {}
    for path, layer in model.named_modules():
        if not hasattr(layer, "adapter"):
            continue
        W, (adapted, bias) = layer.weight.detach(), effective_weight(layer)
        parts = {"W": adapted}
        own = layer.adapter.tensors()
        if "lora_m" in own:
            V = W + layer.adapter.scale * own["lora_B"] @ own["lora_A"]
            parts = {**_low_rank(V - W, W), "rows": adapted.norm(dim=1) / V.norm(dim=1)}
        elif (factors := _low_rank(adapted - W, W)) and _numbers(factors) < W.numel():
            parts = factors
        if bias is not None and not torch.equal(bias, layer.bias):
            parts["b"] = bias
        packed |= {f"{path}.{name}": tensor.to(dtype).contiguous().clone() for name, tensor in parts.items()}
    return save(packed)


def _low_rank(difference: Tensor, W: Tensor) -> dict[str, Tensor]:
    """B A = difference, to rounding beside W: A (r, d_in) and B (d_out, r), of like size."""
    U, S, Vh = torch.linalg.svd(difference.double(), full_matrices=False)
    r = max(1, int((S > 2e-6 * torch.linalg.matrix_norm(W.double(), 2)).sum()))
    root = S[:r].sqrt()
    return {"A": root[:, None] * Vh[:r], "B": U[:, :r] * root}


def _numbers(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
