"""The interactive figures: each computes in the page, so that it needs neither kernel nor network."""

from .antipasto_steer import AntipastoSteer
from .ask import Ask
from .contract import Contract
from .costs_size import CostsAtYourSize
from .delora_cliff import DeloraCliff
from .dora_row import DoraRow
from .eva_needle import EvaNeedle
from .eva_ranks import EvaRanks
from .figure import Figure
from .guess import Guess
from .hra_mirrors import HraMirrors
from .ia3_gates import Ia3Gates
from .ia3_sides import Ia3Sides
from .lora_rates import LoraRates
from .memory_plan import MemoryPlan
from .museum import Museum
from .peft_folder import PeftFolder
from .pissa_spectrum import PissaSpectrum
from .quant_blocks import QuantBlocks
from .run_scrubber import RunScrubber

__all__ = [
    "AntipastoSteer",
    "Ask",
    "Contract",
    "CostsAtYourSize",
    "DeloraCliff",
    "DoraRow",
    "EvaNeedle",
    "EvaRanks",
    "Figure",
    "Guess",
    "HraMirrors",
    "Ia3Gates",
    "Ia3Sides",
    "LoraRates",
    "MemoryPlan",
    "Museum",
    "PeftFolder",
    "PissaSpectrum",
    "QuantBlocks",
    "RunScrubber",
]
