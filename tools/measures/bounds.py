"""A measure's outcome: numbers beside what they may be."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """One number, and its bound: the least or the most that it may be, or neither where it is only shown."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    how: str = ""
    """The figures that it was computed from."""

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def said(self) -> str:
        """The bound in words."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else ""


def judged(title: str, bounds: Iterable[Bound]) -> bool:
    """Prints a table of the numbers; whether all are within their bounds."""
    bounds = list(bounds)
    report(
        title,
        *((each.what, f"{each.value:.2f}", each.said, "" if each.holds else "BROKEN", each.how) for each in bounds),
    )
    return all(each.holds for each in bounds)


def report(title: str, *rows: Iterable[str]) -> None:
    """Prints rows as a table."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    print(f"\n{title}")
    for row in zip(*columns, strict=True):
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def milliseconds(seconds: float) -> str:
    """0.0123 as `12.3 ms`."""
    return f"{1000 * seconds:.1f} ms"
