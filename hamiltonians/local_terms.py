"""Local matrices and the places where they act: the plain data that a `NetKetOperator` consists of."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

Digits = tuple[int, ...]  # local states of some modes
Change = tuple[tuple[int, int, int], ...]  # (mode, digit before, digit after) of each mode that changes


@dataclass(frozen=True, kw_only=True)
class LocalTerms:
    """One local matrix and the places where it acts.

    Attributes:
        entries: (row digits, column digits, real part, imaginary part) of every element that is not zero.
        modes: for each place the modes that the digits belong to.
        coefficients: factor of the matrix at each place.
        signs: for each place the modes that contribute (-1)^x; () if no place has any.
        flips: for each place the modes of two states that are flipped; () if no place has any.

    Raises:
        ValueError: numbers that are not finite.
    """

    entries: tuple[tuple[Digits, Digits, float, float], ...]
    modes: tuple[tuple[int, ...], ...]
    coefficients: tuple[float, ...]
    signs: tuple[tuple[int, ...], ...] = ()
    flips: tuple[tuple[int, ...], ...] = ()

    def elements(self, *, diagonal: bool) -> list[tuple[Digits, Digits, complex]]:
        """Row, column and value of the elements that keep the configuration, or of those that change it."""
        return [
            (row, column, complex(re, im))
            for row, column, re, im in self.entries
            if (row == column and not self.flips) == diagonal
        ]

    def __post_init__(self) -> None:
        numbers = [*self.coefficients, *(x for entry in self.entries for x in entry[2:])]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a local matrix has elements or coefficients that are not finite: give finite numbers.")

    @property
    def n_elements(self) -> int:
        """Number of elements of the fullest row, at least 1, summed over the places."""
        return len(self.modes) * max(Counter(row for row, *_ in self.entries).values())

    @property
    def largest(self) -> float:
        """Modulus of the largest element with its coefficient."""
        return max(map(abs, self.coefficients)) * max(abs(complex(re, im)) for *_, re, im in self.entries)

    def changes(self) -> Iterator[Change]:
        """The changes of digits that the off-diagonal elements make, once for each place."""
        patterns = {
            tuple((k, a, b) for k, (a, b) in enumerate(zip(row, column, strict=True)) if a != b)
            for row, column, _ in self.elements(diagonal=False)
        }
        for modes in self.modes:
            yield from (tuple((modes[k], a, b) for k, a, b in pattern) for pattern in patterns)
