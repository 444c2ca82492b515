"""One file per variant. Importing this package registers them all."""

from .antipasto import AntiPaSTO
from .delora import DeLoRA
from .dora import DoRA
from .eva import EVA
from .hra import HRA
from .ia3 import IA3
from .ia3_ff import IA3FF
from .lora import LoRA
from .pissa import PiSSA

__all__ = ["AntiPaSTO", "DeLoRA", "DoRA", "EVA", "HRA", "IA3", "IA3FF", "LoRA", "PiSSA"]
