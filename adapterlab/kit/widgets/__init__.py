"""The interactive figures: each computes in the page, so that it needs neither kernel nor network."""

from .ask import Ask
from .contract import Contract
from .dora_row import DoraRow
from .figure import Figure
from .guess import Guess
from .hra_mirrors import HraMirrors
from .lora_rates import LoraRates
from .run_scrubber import RunScrubber

__all__ = ["Ask", "Contract", "DoraRow", "Figure", "Guess", "HraMirrors", "LoraRates", "RunScrubber"]
