r"""One- and two-electron integrals over the orbitals of a molecule, in chemists' notation and Hartree:

    h_pq   = integral phi_p(1) h(1) phi_q(1),
    (pq|rs) = integral phi_p(1) phi_q(1) 1/r_12 phi_r(2) phi_s(2),

for real orbitals, so that h is symmetric and (pq|rs) keeps its value if p and q, or r and s, are exchanged. Restricted
orbitals are the same for both spins; unrestricted ones differ, and (pq|rs) is needed between up and up, down and down,
up and down electrons.

The two-electron integrals are matrices between pairs of orbitals p >= q, the pair having the number p (p + 1) / 2 + q.
"""

# Shapes: S spins (1 restricted, 2 unrestricted), M orbitals, T = M (M + 1) / 2 pairs, C = 1 or 3 combinations of spins.
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

SYMMETRIC = 1e-8  # difference, relative to the largest integral, of two that should be equal


@dataclass(frozen=True, kw_only=True, eq=False)
class Integrals:
    """Integrals over M real orbitals.

    Args:
        core: energy of the nuclei and of electrons that are not treated, in Hartree.
        one_body: h_pq, (1, M, M); unrestricted (2, M, M), up and down.
        two_body: (pq|rs) between pairs, (1, T, T); unrestricted (3, T, T): up-up, down-down, up-down.

    Raises:
        ValueError: shapes that do not fit, numbers that are complex or not finite, or matrices that are not symmetric.

    >>> hubbard_atom = Integrals.dense(0.0, np.zeros((1, 1)), np.full((1, 1, 1, 1), 4.0))
    >>> hubbard_atom.n_orbitals, hubbard_atom.is_restricted
    (1, True)
    """

    core: float
    one_body: np.ndarray = field(repr=False)
    two_body: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("one_body", "two_body"):
            values = np.asarray(getattr(self, name))
            if np.iscomplexobj(values):
                raise ValueError(
                    f"{name} is complex: integrals over real orbitals are needed. Use a basis of real orbitals, "
                    "without spin-orbit coupling or a magnetic field."
                )
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has {int((~np.isfinite(values)).sum())} numbers that are not finite.")
            object.__setattr__(self, name, np.ascontiguousarray(values, dtype=np.float64))
        h, v = self.one_body, self.two_body
        M = h.shape[-1] if h.ndim == 3 else 0
        T = M * (M + 1) // 2
        if M == 0 or h.shape not in ((1, M, M), (2, M, M)) or v.shape != ((1, T, T) if len(h) == 1 else (3, T, T)):
            raise ValueError(
                f"one_body has the shape {h.shape}, two_body {v.shape}: for M orbitals with T = M (M + 1) / 2 pairs "
                "they are (1, M, M) and (1, T, T), or (2, M, M) and (3, T, T) for unrestricted orbitals; "
                "Integrals.dense takes (pq|rs) with four indices."
            )
        for name, matrices in (("one_body", h), ("two_body", v[:2])):
            difference = np.abs(matrices - matrices.swapaxes(1, 2)).max()
            if difference > SYMMETRIC * max(1.0, np.abs(matrices).max()):
                raise ValueError(f"{name} is not symmetric, its elements differ by up to {difference:.1e}.")

    @classmethod
    def dense(
        cls,
        core: float,
        one_body: np.ndarray | Sequence[np.ndarray],
        two_body: np.ndarray | Sequence[np.ndarray],
    ) -> "Integrals":
        """From (pq|rs) with four indices, (M, M, M, M); unrestricted: h of up and down, (pq|rs) of uu, dd and ud.

        Raises:
            ValueError: (pq|rs) changes if p and q are exchanged, or r and s, or as the class.
        """
        h = np.asarray(one_body)
        v = np.asarray(two_body)
        h, v = (h[None], v[None]) if h.ndim == 2 else (h, v)
        if v.ndim != 5 or len(set(v.shape[1:])) != 1 or h.shape[-1] != v.shape[-1]:
            raise ValueError(
                f"h has the shape {h.shape[1:]}, (pq|rs) {v.shape[1:]}: for M orbitals they are (M, M) and "
                "(M, M, M, M), for unrestricted orbitals two and three of them."
            )
        largest = max(1.0, np.abs(v).max())
        for exchanged in (v.swapaxes(1, 2), v.swapaxes(3, 4)):
            if (difference := np.abs(v - exchanged).max()) > SYMMETRIC * largest:
                raise ValueError(
                    f"(pq|rs) changes by up to {difference:.1e} if two orbitals of a pair are exchanged: chemists' "
                    "notation over real orbitals is needed, not <pr|qs> of physicists'."
                )
        p, q = pairs(h.shape[-1])
        return cls(core=core, one_body=h, two_body=v[:, p, q][:, :, p, q])

    @property
    def n_orbitals(self) -> int:
        """M, of each spin."""
        return self.one_body.shape[-1]

    @property
    def is_restricted(self) -> bool:
        """Up and down electrons have the same orbitals."""
        return len(self.one_body) == 1

    def h(self, spin: int) -> Float64[np.ndarray, "M M"]:
        """h_pq of one spin, 0 for up, 1 for down."""
        return self.one_body[0 if self.is_restricted else spin]

    def v(self, spin: int, other: int) -> Float64[np.ndarray, "T T"]:
        """(pq|rs) between pairs of orbitals of one spin and those of another (or the same) one."""
        if self.is_restricted:
            return self.two_body[0]
        if spin == other:
            return self.two_body[spin]
        return self.two_body[2] if spin == 0 else self.two_body[2].T

    def four_index(self, spin: int = 0, other: int = 0) -> Float64[np.ndarray, "M M M M"]:
        """(pq|rs) as an array with four indices."""
        pair = pair_numbers(self.n_orbitals)
        return self.v(spin, other)[pair[:, :, None, None], pair]

    def without_small(self, cutoff: float) -> "Integrals":
        """Integrals up to `cutoff` in modulus are set to zero."""
        h, v = (np.where(np.abs(x) > cutoff, x, 0.0) for x in (self.one_body, self.two_body))
        return Integrals(core=self.core, one_body=h, two_body=v)

    def reordered(self, order: Sequence[int]) -> "Integrals":
        """Orbitals in another order: the first one is then number order[0].

        Raises:
            ValueError: not every orbital once.
        """
        order = list(order)
        if sorted(order) != list(range(self.n_orbitals)):
            raise ValueError(f"order={order}: list each of the orbitals 0 to {self.n_orbitals - 1} once.")
        p, q = pairs(self.n_orbitals)
        place = np.array(order)
        moved = pair_numbers(self.n_orbitals)[place[p], place[q]]
        return Integrals(
            core=self.core, one_body=self.one_body[:, place][:, :, place], two_body=self.two_body[:, moved][:, :, moved]
        )

    def active(self, frozen: Sequence[int], kept: Sequence[int]) -> "Integrals":
        """Integrals of an active space: doubly occupied `frozen` orbitals are folded into h and the core energy.

            E_core += sum_i (h_ii + h_ii) + 1/2 sum_ij [...],    h_pq += sum_i [2 (pq|ii) - (pi|iq)]

        for restricted orbitals, with the sums over both spins for unrestricted ones. Orbitals that are neither frozen
        nor kept stay empty.

        Raises:
            ValueError: an orbital that does not exist, or in both lists, or no orbital is kept.
        """
        frozen, kept, M = list(frozen), list(kept), self.n_orbitals
        wrong = [orbital for orbital in (*frozen, *kept) if not 0 <= orbital < M]
        if wrong or len({*frozen, *kept}) < len(frozen) + len(kept) or not kept:
            raise ValueError(
                f"frozen={frozen}, kept={kept}: orbitals are 0 to {M - 1}, each in one of the lists, and at least one "
                "is kept."
            )
        core, h = self.core, []
        fields = [self.mean_field(spin, [frozen, frozen]) for spin in (0, 1)]
        for spin in (0, 1):
            core += 0.5 * sum(self.h(spin)[i, i] + fields[spin][i, i] for i in frozen)
            h.append(fields[spin][np.ix_(kept, kept)])
        p, q = pairs(len(kept))
        place = np.array(kept)
        moved = pair_numbers(M)[place[p], place[q]]
        return Integrals(
            core=core,
            one_body=np.stack(h[: len(self.one_body)]),
            two_body=self.two_body[:, moved][:, :, moved],
        )

    def mean_field(self, spin: int, occupied: Sequence[Sequence[int]]) -> Float64[np.ndarray, "M M"]:
        """The Fock matrix of one spin, h + J - K, for occupied orbitals of up and of down electrons."""
        fock = self.h(spin).copy()
        pair = pair_numbers(self.n_orbitals)
        for other in (0, 1):
            v = self.v(spin, other)
            for k in occupied[other]:
                fock += v[pair, pair[k, k]]
                if other == spin:
                    fock -= v[pair[:, k][:, None], pair[k, :][None, :]]
        return fock

    def fock(self, densities: Float64[np.ndarray, "2 M M"]) -> Float64[np.ndarray, "2 M M"]:
        """h + J - K of each spin, for any real one-body density matrices of up and of down electrons."""
        found = []
        for spin in (0, 1):
            J = sum(np.einsum("pqrs,sr->pq", self._v4(spin, other), densities[other]) for other in (0, 1))
            found.append(self.h(spin) + J - np.einsum("psrq,sr->pq", self._v4(spin, spin), densities[spin]))
        return np.array(found)

    def _v4(self, spin: int, other: int) -> Float64[np.ndarray, "M M M M"]:
        key = (0, 0) if self.is_restricted else (spin, other)
        if key not in self._four_indices:
            self._four_indices[key] = self.four_index(*key)
        return self._four_indices[key]

    @cached_property
    def _four_indices(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def _digest(self) -> bytes:
        found = hashlib.sha256(np.float64(self.core).tobytes())
        for values in (self.one_body, self.two_body):
            found.update(repr(values.shape).encode() + (values + 0.0).tobytes())
        return found.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Integrals) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


def pairs(n_orbitals: int) -> tuple[Int64[np.ndarray, " T"], Int64[np.ndarray, " T"]]:
    """p and q of all pairs p >= q, in the order of their numbers."""
    p, q = np.tril_indices(n_orbitals)
    return p.astype(np.int64), q.astype(np.int64)


def pair_numbers(n_orbitals: int) -> Int64[np.ndarray, "M M"]:
    """Number of the pair of any two orbitals."""
    p, q = np.indices((n_orbitals, n_orbitals))
    high, low = np.maximum(p, q), np.minimum(p, q)
    return (high * (high + 1) // 2 + low).astype(np.int64)
