"""One file per variant. Importing this package registers them all."""

from .dora import DoRA
from .hra import HRA
from .lora import LoRA

__all__ = ["DoRA", "HRA", "LoRA"]
