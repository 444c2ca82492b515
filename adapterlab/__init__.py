"""LoRA and its relatives: the frozen layer plus a difference that starts at zero.

```python
import adapterlab as al

adapter = al.attach(model, al.DoRA(r=8, alpha=16), targets=r"(q|v)_proj$")
...                                     # train adapter.parameters()
al.save(model, "dora.safetensors")
al.detach(model)                        # the base model again, bit for bit
adapter = al.load(model, "dora.safetensors")
al.merge(model)                         # fold into the weights
```
"""

from . import contract, peft
from .checkpoint import AdapterFileError, BaseMismatchError, load, save
from .layer import effective_weight
from .runtime import Adapter, attach, detach, merge
from .variant import VARIANTS, ParamSpec, Variant, register
from .variants import EVA, HRA, IA3, IA3FF, AntiPaSTO, DeLoRA, DoRA, LoRA, PiSSA

__all__ = [
    "Adapter",
    "AdapterFileError",
    "AntiPaSTO",
    "BaseMismatchError",
    "DeLoRA",
    "DoRA",
    "EVA",
    "HRA",
    "IA3",
    "IA3FF",
    "LoRA",
    "ParamSpec",
    "PiSSA",
    "VARIANTS",
    "Variant",
    "attach",
    "contract",
    "detach",
    "effective_weight",
    "load",
    "merge",
    "peft",
    "register",
    "save",
]
