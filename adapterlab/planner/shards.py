"""What FSDP2 leaves of a tensor on each process: a share of its rows, as torch.chunk shares them out."""

import math


def rows(of: int, processes: int, rank: int) -> int:
    """How many of `of` rows rank `rank` holds: equal shares, the last ones short or empty."""
    share = -(-of // processes)
    return max(0, min(share, of - rank * share))


def held(shape: tuple[int, ...], processes: int) -> int:
    """Numbers that each process keeps room for: FSDP2 pads the short shares."""
    return -(-shape[0] // processes) * math.prod(shape[1:])
