r"""Sums of products of local operators, written as formulas: `-1.0 * (b_dag(0) * b(1) + b_dag(1) * b(0))`.

    b(i), b_dag(i), number(i)          bosons: b |n> = sqrt(n) |n - 1>
    c(i), c_dag(i), number(i)          fermions; c(i, "up"), c_dag(i, "down"), number(i, "up") of electrons
    splus(i), sminus(i), sx(i), sy(i), sz(i), exchange(i, j)   localised spins of any length, S = sigma / 2 for spin 1/2
    matrix(i, M), diagonal(i, values)  a matrix between the local states of one site, or its diagonal
    identity()                         also what a number stands for: number(0) - 0.5

An `Operator` states neither lattice nor sector. It is compiled for a space by `LocalHamiltonian`, which takes part in
everything that a family of Hamiltonians does, and by `nqs.expect`, which also takes operators that are not Hermitian or
lead from one sector to another.

Products act from right to left. Fermions of all species anticommute; the Jordan-Wigner order is that of the space: all
orbitals of its first species of fermions in the order of the sites, then those of the second (electrons: all up
orbitals before all down ones), and |n> = c+_{s_1} c+_{s_2} .. |0> with occupied orbitals s_1 < s_2 < .. . Bosons and
spins commute with everything on other sites.

Cutoffs. Where a space leaves out local states (n_max of bosons, double occupancy of the t-J model), every factor acts
in the truncated local space: with n_max = 1, b b+ is 1 - n. Where the largest occupation is the number of particles,
which is no cutoff, b b+ is n + 1.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, NamedTuple, Union

import numpy as np

from nqs.hamiltonians.operator_elements import OperatorElements
from nqs.hilbert import HilbertSpace

ADJOINT = {"b": "b+", "b+": "b", "c": "c+", "c+": "c", "S+": "S-", "S-": "S+", "n": "n", "Sz": "Sz"}
SHOWN = 6  # terms that are printed


class Factor(NamedTuple):
    """One local operator.

    Attributes:
        name: "b", "b+", "c", "c+", "n", "S+", "S-", "Sz"; "|a><b|" between local states, "f" for a diagonal matrix.
        site: where it acts.
        detail: () or the species, such as ("up",); the two local states; the real and imaginary parts of all values.
    """

    name: str
    site: int
    detail: tuple[Any, ...] = ()

    @property
    def adjoint(self) -> "Factor":
        if self.name == "|a><b|":
            return self._replace(detail=self.detail[::-1])
        if self.name == "f":
            return self._replace(detail=tuple((re, -im) for re, im in self.detail))
        return self._replace(name=ADJOINT[self.name])

    def __str__(self) -> str:
        if self.name == "f":
            return f"f_{self.site}"
        if self.name == "|a><b|":
            return f"|{self.detail[0]}><{self.detail[1]}|_{self.site}"
        return f"{self.name}_{self.site}" + "".join(f",{detail}" for detail in self.detail)


class Term(NamedTuple):
    """A number times a product of factors, the rightmost acting first."""

    real: float
    imag: float
    factors: tuple[Factor, ...]

    @property
    def coefficient(self) -> complex:
        return complex(self.real, self.imag)


@dataclass(frozen=True)
class Operator:
    """A sum of products of local operators: plain data, added, multiplied and scaled with +, -, * and **.

    Attributes:
        terms: (real part, imaginary part, factors) of each product.

    Raises:
        ValueError: a coefficient that is not finite.

    >>> hop = b_dag(0) * b(1)
    >>> print(-1.0 * (hop + hop.dagger()) + 2 * number(0))
    -1 b+_0 b_1 - 1 b+_1 b_0 + 2 n_0
    """

    terms: tuple[Any, ...] = ()  # of Term, or the same as plain tuples

    def __post_init__(self) -> None:
        terms = tuple(
            Term(float(re), float(im), tuple(Factor(name, site, tuple(detail)) for name, site, detail in factors))
            for re, im, factors in self.terms
        )
        for term in terms:
            if not (math.isfinite(term.real) and math.isfinite(term.imag)):
                raise ValueError(f"the coefficient {_number(term.coefficient)} of an operator must be a finite number.")
        object.__setattr__(self, "terms", tuple(term for term in terms if term.coefficient))

    # --- algebra ----------------------------------------------------------------------------------------------

    def __add__(self, other: "Summand") -> "Operator":
        return Operator(self.terms + _operator(other).terms)

    def __radd__(self, other: "Summand") -> "Operator":
        return self if isinstance(other, int) and other == 0 else _operator(other) + self  # the start of sum()

    def __neg__(self) -> "Operator":
        return -1 * self

    def __sub__(self, other: "Summand") -> "Operator":
        return self + -_operator(other)

    def __rsub__(self, other: "Summand") -> "Operator":
        return _operator(other) - self

    def __mul__(self, other: "Summand") -> "Operator":
        return Operator(
            tuple(
                Term(*_parts(a.coefficient * b.coefficient), a.factors + b.factors)
                for a, b in itertools.product(self.terms, _operator(other).terms)
            )
        )

    def __rmul__(self, other: "Summand") -> "Operator":
        return _operator(other) * self

    def __truediv__(self, number: complex) -> "Operator":
        return (1 / number) * self

    def __pow__(self, exponent: int) -> "Operator":
        return product([self] * exponent)

    def dagger(self) -> "Operator":
        """The Hermitian conjugate."""
        return Operator(
            tuple(Term(re, -im, tuple(f.adjoint for f in reversed(factors))) for re, im, factors in self.terms)
        )

    # --- elements ---------------------------------------------------------------------------------------------

    def on(self, hilbert: HilbertSpace, ket: HilbertSpace | None = None) -> OperatorElements:
        """Its matrix elements <n|O|n'> with n in one space and n' in the same or another one.

        Raises:
            ValueError: a site or a species that the space does not have, or spaces of other particles.
        """
        return OperatorElements(self.terms, hilbert, hilbert if ket is None else ket)

    def __str__(self) -> str:
        text = " + ".join(
            " ".join([_number(term.coefficient), *map(str, term.factors)]) for term in self.terms[:SHOWN]
        ).replace("+ -", "- ")
        return (text or "0") + (f" + .. ({len(self.terms)} terms)" if len(self.terms) > SHOWN else "")

    __repr__ = __str__


Summand = Union[Operator, complex, np.number]  # noqa: UP007 - Operator is still a name for beartype


def _operator(x: Summand) -> Operator:
    if isinstance(x, Operator):
        return x
    if not isinstance(x, Number):
        raise TypeError(f"{x!r} ({type(x).__name__}) is neither an Operator nor a number.")
    return Operator((Term(*_parts(complex(x)), ()),))


def _parts(x: complex) -> tuple[float, float]:
    return x.real, x.imag


def _number(x: complex) -> str:
    return f"{x:g}" if x.imag else f"{x.real:g}"


def _one(name: str, site: int, *detail: Any) -> Operator:
    if isinstance(site, bool) or int(site) != site or site < 0:
        raise ValueError(f"site {site!r} of {name}: sites are numbered 0, 1, ...")
    return Operator((Term(1.0, 0.0, (Factor(name, int(site), detail),)),))


def _of_species(name: str, site: int, species: str | None) -> Operator:
    return _one(name, site, *(() if species is None else (species,)))


# ---- the local operators ---------------------------------------------------------------------------------------


def identity() -> Operator:
    """The number 1."""
    return _operator(1.0)


def product(factors: Iterable[Operator]) -> Operator:
    """The product of several operators in their order."""
    result = identity()
    for factor in factors:
        result = result * factor
    return result


def b(site: int, species: str | None = None) -> Operator:
    """Annihilates a boson; `species` where the space has several kinds."""
    return _of_species("b", site, species)


def b_dag(site: int, species: str | None = None) -> Operator:
    """Creates a boson."""
    return _of_species("b+", site, species)


def c(site: int, species: str | None = None) -> Operator:
    """Annihilates a fermion; `species` of electrons is "up" or "down", of others the name in the space."""
    return _of_species("c", site, species)


def c_dag(site: int, species: str | None = None) -> Operator:
    """Creates a fermion."""
    return _of_species("c+", site, species)


def number(site: int, species: str | None = None) -> Operator:
    """Number of particles; without `species` of all bosons and fermions of the site."""
    return _of_species("n", site, species)


def splus(site: int) -> Operator:
    """S+ |m> = sqrt(S (S + 1) - m (m + 1)) |m + 1>."""
    return _one("S+", site)


def sminus(site: int) -> Operator:
    """S- |m> = sqrt(S (S + 1) - m (m - 1)) |m - 1>."""
    return _one("S-", site)


def sz(site: int) -> Operator:
    """S^z of a localised spin."""
    return _one("Sz", site)


def sx(site: int) -> Operator:
    """S^x = (S+ + S-) / 2."""
    return 0.5 * (splus(site) + sminus(site))


def sy(site: int) -> Operator:
    """S^y = (S+ - S-) / 2i."""
    return -0.5j * (splus(site) - sminus(site))


def exchange(i: int, j: int) -> Operator:
    """S_i . S_j = S^z_i S^z_j + (S+_i S-_j + S-_i S+_j) / 2, for i = j too."""
    return sz(i) * sz(j) + 0.5 * (splus(i) * sminus(j) + sminus(i) * splus(j))


def matrix(site: int, elements: Any) -> Operator:
    """Any matrix <a|M|b> between the local states of one site, (d, d), in the order of the space.

    Raises:
        ValueError: no square matrix.
    """
    M = np.asarray(elements, dtype=complex)
    if M.ndim != 2 or M.shape[0] != M.shape[1]:
        raise ValueError(f"a matrix of shape {M.shape} at site {site}: give (d, d) for d local states.")
    changes = M - np.diag(M.diagonal())
    terms = tuple(
        Term(*_parts(complex(M[a, b])), _one("|a><b|", site, int(a), int(b)).terms[0].factors)
        for a, b in np.argwhere(changes)
    )
    return Operator(terms) + (diagonal(site, M.diagonal()) if M.diagonal().any() else 0)


def diagonal(site: int, values: Sequence[complex] | np.ndarray) -> Operator:
    """sum_a values[a] |a><a|, such as exp(i pi S^z) of the string order of spins 1: diagonal(i, [-1, 1, -1])."""
    return _one("f", site, *(_parts(complex(value)) for value in values))
