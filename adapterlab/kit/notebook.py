"""What every notebook does first."""

import logging
import warnings

import torch


def start(seed: int = 0) -> None:
    """One thread, a seed, and no noise from libraries.

    A model as small as the base model gains nothing from more threads, and loses much where others want
    them too. PEFT's calls of names that transformers deprecates are silenced too.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft")
    quiet()


def quiet() -> None:
    """Silence bitsandbytes' hint at import about kernels it could fetch, and torchao's list of kernels that are not
    for this machine: loading any model imports both where they are installed."""
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):  # the last is where torchao's enums complain
        logging.getLogger(name).setLevel(logging.ERROR)
