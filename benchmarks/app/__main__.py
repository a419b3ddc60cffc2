"""The figures we hold ("Figures we hold" in the app's specification), measured, as Markdown.

    python -m benchmarks.app                 all that apply
    python -m benchmarks.app --only 1 4 11   some

Nothing leaves this machine. The exit status is 1 when a figure falls short or could not be
measured. Figures 9, 10, 13 and 14 have no number to print: the test suite holds them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

import app
from benchmarks.measure import HEADER, Figure, machine, table_head, table_row


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table row by row; 0 when every figure holds."""
    app.prepare_process(offline=True)
    from benchmarks.app.figures import FIGURES

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.app", description="Measure the figures we hold."
    )
    numbers = sorted(FIGURES)
    parser.add_argument(
        "--only", nargs="+", type=int, choices=numbers, default=numbers, metavar="N",
        help="numbers of the figures to measure (%(choices)s)",
    )  # fmt: skip
    only = parser.parse_args(argv).only
    print(f"{machine()}\n\n{table_head(HEADER)}", flush=True)
    held = [print_rows(number, FIGURES[number]) for number in only]
    return 0 if all(held) else 1


def print_rows(number: int, measure: Callable[[], Iterable[Figure]]) -> bool:
    """Measure one figure and print its rows; whether all of them hold."""
    holds = True
    try:
        for figure in measure():
            print(table_row(figure.row()), flush=True)
            holds &= figure.holds
    except Exception as error:  # one figure that cannot be measured takes no other with it
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(table_row((str(number), "**not measured**", "", "", "", "", why)), flush=True)
        return False
    return holds


if __name__ == "__main__":
    sys.exit(main())
