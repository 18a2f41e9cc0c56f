"""Rows of words -> lines of text in columns."""

from collections.abc import Sequence


def lined_up(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines; the first column is aligned on the left, the others on the right. All are equally long."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
