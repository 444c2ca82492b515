"""The rows as text."""

import statistics
from typing import Any

from .costs import WORK

MIB = 2**20
COLUMNS = ["", "", "step", "infer", "decode", "kept MiB", "peak MiB", "attach ms", "merge ms"]


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Of `measure`'s rows: ratios to the bare base, the bare base's own in milliseconds."""
    lines = []
    for row in rows:
        if row["by"] == "bare":
            medians = {
                work: statistics.median(t for t in times if t is not None) for work, times in row["seconds"].items()
            }
            cells = [f"{1000 * medians[work]:.3g} ms" for work in WORK]
            lines.append(["", "bare", *cells, "", f"{row['peak'] / MIB:.1f}", "", ""])
            continue
        cells = [f"{row['ratio'][work]:.2f}" for work in WORK]
        rank = f" r={row['fields']['r']}" if "r" in row["fields"] else ""
        lines.append(
            [
                row["variant"] + rank,
                row["by"],
                *cells,
                f"{row['kept'] / MIB:.1f}",
                f"{row['peak'] / MIB:.1f}",
                f"{1000 * row['attach']:.0f}",
                f"{1000 * row['merge']:.0f}",
            ]
        )
    return lines


def show(lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [COLUMNS, *lines]) for i in range(len(COLUMNS))]
    for line in [COLUMNS, *lines]:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths)]
        print("  ".join([*left, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:]))]).rstrip())
