r"""Electrons in the orbitals of a molecule, the four-index Hamiltonian

    H = E_core + sum_pq,s h_pq a+_ps a_qs + 1/2 sum_pqrs,st (pq|rs) a+_ps a+_rt a_st a_qs

(the electron with spin s moves from q to p, that with spin t from the orbital s to r), with integrals over real
orbitals in chemists' notation (nqs.hamiltonians.integrals) and energies in Hartree. Restricted orbitals are the same
for both spins; unrestricted ones have integrals of their own for each combination of spins.

A site is a spatial orbital, in the order of the integrals: 0 empty, 1 up, 2 down, 3 both. Jordan-Wigner order: all up
orbitals, then all down orbitals, as for `FermiHubbard`. The sector has fixed numbers of up and down electrons, and the
parities of orbital irreps that the integrals conserve (nqs.hamiltonians.orbital_parities): the ground state is looked
for in the symmetry sector that has the lowest energy on a few hundred selected determinants.

Szabo and Ostlund, Modern Quantum Chemistry, chapter 2. Matrix elements: nqs.hamiltonians.slater_condon.
"""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.estimators.selected import selected_state
from nqs.hamiltonians.couplings import values
from nqs.hamiltonians.fcidump import electron_numbers, read_fcidump, write_fcidump
from nqs.hamiltonians.integrals import Integrals
from nqs.hamiltonians.jordan_wigner import lattice_hops
from nqs.hamiltonians.one_electron import OneElectron
from nqs.hamiltonians.orbital_parities import Labels, orbital_parities
from nqs.hamiltonians.slater_condon import SlaterCondon
from nqs.hilbert import Charge, HilbertSpace, spinful_fermions
from nqs.protocols import Connected

if TYPE_CHECKING:
    from nqs.hamiltonians.fermi_hubbard import FermiHubbard

UP, DOWN = 1, 2  # bits of the local state
CUTOFF = 1e-12  # Hartree
DESCENTS = 100  # replacements of a determinant by a better one
PROBED, FAR = 300, 1.0  # determinants by which sectors are compared; Hartree above which a sector is out of question
BETTER = 1e-12  # relative decrease of an energy that is no rounding error


@dataclass(frozen=True, repr=False)
class Molecule:
    """Electrons in molecular orbitals; `from_fcidump`, `from_geometry`, `from_pyscf` and `from_lattice` make one.

    Args:
        integrals: h_pq, (pq|rs) and the core energy.
        n_up: number of up electrons.
        n_down: number of down electrons.
        irreps: "auto": parities of orbital irreps are conserved charges of the sector, the one with the lowest
            energy by an estimate; "none": the sector has all determinants.
        cutoff: integrals and matrix elements up to this modulus are left out, in Hartree; `cutoff_bound` bounds the
            change of any energy.
        sampled_elements: off-diagonal elements of a determinant that enter its local energy on average, an unbiased
            sample (nqs.estimators.sampled_elements) for large bases; None: all.
        spin_penalty: w of a term w [S^2 - s (s + 1)], s = |n_up - n_down| / 2, in Hartree, which lifts states with a
            total spin above the least one of the sector; energies contain it, and stay upper bounds of that of spin s.
        one_electron: dipole moment and charges that are measured; None where the orbitals are not known.

    Raises:
        ValueError: impossible electron numbers, a cutoff that is negative or not finite, or no sampled elements.

    >>> from nqs.hamiltonians import FermiHubbard
    >>> from nqs.lattice import chain
    >>> molecule = Molecule.from_lattice(FermiHubbard(chain(4), n_up=2, n_down=2, U=4.0), orbitals="hopping")
    >>> molecule.integrals.n_orbitals, molecule.unit
    (4, 'Hartree')
    """

    integrals: Integrals
    n_up: int
    n_down: int
    _: KW_ONLY
    irreps: Literal["auto", "none"] = "auto"
    cutoff: float = CUTOFF
    sampled_elements: int | None = None
    spin_penalty: float = 0.0
    one_electron: OneElectron | None = field(default=None, repr=False, compare=False)
    name: str = field(default="molecule")

    def __post_init__(self) -> None:
        M = self.integrals.n_orbitals
        if not (0 <= self.n_up <= M and 0 <= self.n_down <= M):
            raise ValueError(
                f"n_up={self.n_up}, n_down={self.n_down}: {M} orbitals hold 0 to {M} electrons of each spin."
            )
        if self.irreps not in ("auto", "none"):
            raise ValueError(f"irreps={self.irreps!r}: choose 'auto' or 'none'.")
        if not 0 <= self.cutoff < np.inf:
            raise ValueError(f"cutoff={self.cutoff}: it must be 0 or a small energy in Hartree, such as 1e-12.")
        if self.sampled_elements is not None and self.sampled_elements < 1:
            raise ValueError(f"sampled_elements={self.sampled_elements}: give a number such as 300, or None for all.")
        if not 0 <= self.spin_penalty < np.inf:
            raise ValueError(
                f"spin_penalty={self.spin_penalty}: it must be 0 or a positive energy in Hartree, such as 1."
            )
        if self.spin_penalty and not self.integrals.is_restricted:
            raise ValueError("spin_penalty needs orbitals that are the same for both spins; these are unrestricted.")

    # --- where molecules come from ------------------------------------------------------------------------------

    @classmethod
    def from_fcidump(
        cls, path: str | Path, *, frozen: int = 0, active: int | None = None, spin: int | None = None, **options: Any
    ) -> "Molecule":
        """From an FCIDUMP file, which may be compressed (nqs.hamiltonians.fcidump); PySCF is not needed.

        Args:
            frozen: number of orbitals, the first ones, that stay doubly occupied and are folded into the integrals.
            active: number of orbitals after the frozen ones that are kept; None: all.
            spin: 2 S^z = n_up - n_down; None: that of the file.
            options: `irreps`, `cutoff`, `sampled_elements`, `spin_penalty`, `name`.

        Raises:
            ValueError: as `read_fcidump`, or as `active_space`.
        """
        found = read_fcidump(path)
        n_up, n_down = found.n_up, found.n_down
        if spin is not None:
            total = n_up + n_down
            n_up, n_down = electron_numbers(total, spin, found.integrals.n_orbitals, f"spin={spin}")
        whole = cls(
            found.integrals,
            n_up,
            n_down,
            **{"name": re.sub(r"(\.fcidump)?(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE), **options},
        )
        return whole if not frozen and active is None else whole.active_space(frozen, active)

    @classmethod
    def from_geometry(
        cls,
        atom: str,
        basis: str = "sto-3g",
        *,
        charge: int = 0,
        spin: int | None = None,
        bohr: bool = False,
        orbitals: Literal["hartree-fock", "lowdin"] = "hartree-fock",
        unrestricted: bool = False,
        frozen: int = 0,
        active: int | None = None,
        **options: Any,
    ) -> "Molecule":
        """From positions of atoms, in Hartree-Fock orbitals; needs PySCF.

        Args:
            atom: elements with positions in Angstrom, "N 0 0 0; N 0 0 1.1".
            basis, charge, spin, bohr, orbitals, unrestricted: as `nqs.hamiltonians.quantum_chemistry.from_geometry`.
            frozen, active: as `active_space`.
            options: `irreps`, `cutoff`, `sampled_elements`, `spin_penalty`, `name`.

        Raises:
            PySCFMissing: PySCF is not installed.
            ValueError: as there, or as `active_space`.
        """
        from nqs.hamiltonians.quantum_chemistry import from_geometry

        found = from_geometry(
            atom, basis, charge=charge, spin=spin, bohr=bohr, orbitals=orbitals, unrestricted=unrestricted
        )
        known = {"name": found.name, "one_electron": found.one_electron}
        whole = cls(found.integrals, found.n_up, found.n_down, **(known | options))
        return whole if not frozen and active is None else whole.active_space(frozen, active)

    @classmethod
    def from_pyscf(
        cls,
        mean_field: Any,
        *,
        coefficients: np.ndarray | Sequence[np.ndarray] | None = None,
        frozen: int | Sequence[int] = 0,
        active: int | Sequence[int] | None = None,
        **options: Any,
    ) -> "Molecule":
        """From a mean-field object of PySCF, RHF, ROHF or UHF, in its orbitals or given ones.

        Args:
            mean_field, coefficients: as `nqs.hamiltonians.quantum_chemistry.from_pyscf`.
            frozen: number of the first orbitals, or a list of orbitals, that stay doubly occupied.
            active: number of orbitals after them, or a list of orbitals, that are kept; None: all others.
            options: `irreps`, `cutoff`, `sampled_elements`, `spin_penalty`, `name`.

        Raises:
            PySCFMissing: PySCF is not installed.
            ValueError: as there, or as `active_space`.
        """
        from nqs.hamiltonians.quantum_chemistry import from_pyscf

        found = from_pyscf(mean_field, coefficients)
        known = {"name": found.name, "one_electron": found.one_electron}
        whole = cls(found.integrals, found.n_up, found.n_down, **(known | options))
        if isinstance(frozen, int) and (active is None or isinstance(active, int)):
            return whole if not frozen and active is None else whole.active_space(frozen, active)
        held = list(range(frozen)) if isinstance(frozen, int) else list(frozen)
        others = [orbital for orbital in range(whole.integrals.n_orbitals) if orbital not in held]
        kept = others[:active] if active is None or isinstance(active, int) else list(active)
        order = [*held, *kept, *(orbital for orbital in others if orbital not in kept)]
        return whole.reordered(order).active_space(len(held), len(kept))

    @classmethod
    def from_lattice(
        cls, hubbard: "FermiHubbard", orbitals: Literal["sites", "hopping"] | np.ndarray = "hopping", **options: Any
    ) -> "Molecule":
        """A Hubbard model in any basis of real orbitals, as a four-index problem in units of its t.

        Args:
            hubbard: with fixed numbers of electrons, real hops, and no field along z.
            orbitals: "sites"; "hopping", the eigenstates of the hops (on a ring standing waves, cosines and sines of
                the momenta); or an orthogonal matrix, a column for each orbital.

        Raises:
            ValueError: numbers that are not fixed, complex hops, a field, or a matrix that is not orthogonal.
        """
        L = hubbard.lattice.n_sites
        if hubbard.n_up is None or hubbard.n_down is None:
            raise ValueError("from_lattice needs fixed numbers of electrons: give n_up and n_down.")
        hops = lattice_hops(hubbard.lattice, (hubbard.t, hubbard.t2), hubbard.twist)
        if hops.amplitude.is_complex():
            raise ValueError(f"twist={hubbard.twist}: from_lattice needs real hops; leave the twist out.")
        if np.any(hubbard.h):
            raise ValueError("from_lattice needs h=0: a field makes the orbitals of up and down electrons different.")
        h = np.zeros((L, L))
        np.add.at(h, (hops.source.numpy(), hops.target.numpy()), hops.amplitude.numpy())
        if isinstance(orbitals, str) and orbitals not in ("sites", "hopping"):
            raise ValueError(f"orbitals={orbitals!r}: choose 'sites', 'hopping' or a matrix.")
        if isinstance(orbitals, str):
            C = np.eye(L) if orbitals == "sites" else np.linalg.eigh(h)[1]
        else:
            C = np.asarray(orbitals, dtype=float)
        if C.shape != (L, L) or np.abs(C.T @ C - np.eye(L)).max() > 1e-10:
            raise ValueError(f"orbitals must be an orthogonal matrix of shape ({L}, {L}), a column for each orbital.")
        energy = -values(hubbard.mu, L).numpy()
        h[np.arange(L), np.arange(L)] += energy if hubbard.potential is None else energy + np.array(hubbard.potential)
        interaction = np.diag(values(hubbard.U, L).numpy())  # (ii|jj)
        i, j = hubbard.lattice.bonds().T.numpy()
        np.add.at(interaction, (i, j), values(hubbard.V, len(i)).numpy())
        np.add.at(interaction, (j, i), values(hubbard.V, len(i)).numpy())
        density = np.einsum("ip,iq->ipq", C, C).reshape(L, -1)
        v = (density.T @ interaction @ density).reshape(L, L, L, L)
        # (ii|ii) with two electrons of one spin vanishes, so that U acts between up and down only.
        return cls(Integrals.dense(0.0, C.T @ h @ C, v), hubbard.n_up, hubbard.n_down, **options)

    # --- other forms of the same problem ------------------------------------------------------------------------

    def active_space(self, frozen: int = 0, active: int | None = None) -> "Molecule":
        """The first `frozen` orbitals stay doubly occupied, the next `active` ones are kept, others stay empty.

        Raises:
            ValueError: fewer electrons than the frozen orbitals hold, or more than fit into the active ones.
        """
        M = self.integrals.n_orbitals
        active = M - frozen if active is None else active
        most = max(0, min(self.n_up, self.n_down))
        if not 0 <= frozen <= most:
            raise ValueError(f"frozen={frozen}: {most} orbitals at most are doubly occupied.")
        if not max(self.n_up, self.n_down) - frozen <= active <= M - frozen or active < 1:
            raise ValueError(
                f"active={active}: of {M} orbitals {frozen} are frozen, so that "
                f"{max(1, max(self.n_up, self.n_down) - frozen)} to {M - frozen} can be active."
            )
        held, kept = range(frozen), range(frozen, frozen + active)
        integrals = self.integrals.active(held, kept)
        one_electron = None if self.one_electron is None else self.one_electron.active(held, kept)
        return replace(
            self, integrals=integrals, one_electron=one_electron, n_up=self.n_up - frozen, n_down=self.n_down - frozen
        )

    def reordered(self, order: Sequence[int]) -> "Molecule":
        """The same molecule with its orbitals in another order (nqs.hamiltonians.orbital_order)."""
        one_electron = None if self.one_electron is None else self.one_electron.reordered(order)
        return replace(self, integrals=self.integrals.reordered(order), one_electron=one_electron)

    def to_fcidump(self, path: str | Path) -> None:
        """Write an FCIDUMP file, compressed if the name ends with .gz."""
        write_fcidump(path, self.integrals, self.n_up, self.n_down)

    # --- the contract -------------------------------------------------------------------------------------------

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector of n_up, n_down and the parities."""
        space = spinful_fermions(self.integrals.n_orbitals, self.n_up, self.n_down)
        if not self.parities:
            return space
        charges, n = list(space.charges), self.peak.numpy()
        for number, label in enumerate(self.parities, start=1):
            up, down = np.array(label).reshape(2, -1)
            rows = np.stack([0 * up, up, down, up ^ down], axis=1)
            target = int(rows[np.arange(len(n)), n].sum() % 2)
            charges.append(Charge(f"parity {number}", tuple(map(tuple, rows.tolist())), target, modulus=2))
        return HilbertSpace(space.n_sites, space.local_states, tuple(charges), space.species)

    @cached_property
    def parities(self) -> Labels:
        """0 or 1 for each spin orbital, all up before all down, of the parities that the sector fixes."""
        if self.irreps == "none":
            return ()
        M, exchanges = self._M, self.spin_penalty > 0
        found = orbital_parities(self.integrals, self.cutoff, exchanges=exchanges)
        empty_or_full = {s for s, number in enumerate((self.n_up, self.n_down)) if number in (0, M)}
        spins = [[s for s in (0, 1) if any(label[s * M : (s + 1) * M])] for label in found]
        return tuple(label for label, of in zip(found, spins, strict=True) if not set(of) <= empty_or_full)

    @cached_property
    def lowest_determinant(self) -> UInt8[Tensor, " M"]:
        """The determinant with the lowest energy: Hartree-Fock where the orbitals are those of Hartree-Fock.

        Found from the first orbitals filled, by moves of one electron or of a pair that lower <n|H|n>.
        """
        M = self._M
        orbitals = torch.arange(M)
        n = ((orbitals < self.n_up) + 2 * (orbitals < self.n_down)).to(torch.uint8)
        elements = SlaterCondon(
            self.integrals, (self.n_up, self.n_down), (0,) * (2 * M), 0.0, torch.device("cpu"), self.spin_penalty
        )
        energy = elements.diagonal(n[None])[0]
        i, a = torch.cartesian_prod(orbitals, orbitals).T
        for _ in range(DESCENTS):
            moved = []
            for bits in (UP, DOWN, UP | DOWN):
                possible = ((n[i] & bits) == bits) & ((n[a] & bits) == 0)
                flips = torch.zeros(int(possible.sum()), M, dtype=torch.uint8)
                flips.scatter_(1, torch.stack([i[possible], a[possible]], 1), bits)
                moved.append(n ^ flips)
            others = torch.cat(moved)
            energies = elements.diagonal(others)
            if not len(others) or energies.min() >= energy - BETTER * energy.abs():
                break
            energy, n = energies.min(), others[energies.argmin()]
        return n

    @cached_property
    def peak(self) -> UInt8[Tensor, " M"]:
        """A determinant of the sector: the one with the lowest energy there.

        The sector of the parities is that with the lowest energy of a few hundred selected determinants and its
        second-order correction; the determinant with the lowest energy need not be in it (C2 in STO-3G).
        """
        lowest = self.lowest_determinant
        if not self.parities:
            return lowest
        whole = replace(self, irreps="none")
        candidates = torch.cat([lowest[None], whole.connected(lowest[None]).configurations])
        if self.n_up == self.n_down:  # the closed shell of the first orbitals
            closed = torch.where(torch.arange(self._M) < self.n_up, UP | DOWN, 0).to(torch.uint8)[None]
            candidates = torch.cat([candidates, closed, whole.connected(closed).configurations])
        labels = torch.tensor(self.parities).view(len(self.parities), 2, self._M)
        odd = ((candidates & UP).long() @ labels[:, 0].T + (candidates >> 1).long() @ labels[:, 1].T) % 2  # (B, R)
        sectors = (odd << torch.arange(odd.shape[1])).sum(1)
        energies = whole.diagonal(candidates)
        found: list[tuple[float, Tensor]] = []
        for sector in sectors.unique().tolist():
            of_sector = torch.where(sectors == sector, energies, torch.inf)
            n = candidates[of_sector.argmin()]
            if of_sector.min() < energies.min() + FAR:
                state = selected_state(whole, n[None], PROBED)
                found.append((state.energy + state.second_order, n))
        return min(found, key=lambda pair: pair[0])[1]

    @property
    def unit(self) -> str:
        return "Hartree"

    @property
    def has_total_spin(self) -> bool:
        """Restricted orbitals: S^2 is measured."""
        return self.integrals.is_restricted

    def fock(self, densities: np.ndarray) -> np.ndarray:
        """Fock matrices of up and down electrons, for Hartree-Fock in these orbitals (nqs.models.hartree_fock)."""
        return self.integrals.fock(densities)

    @property
    def max_connected(self) -> int:
        return max(1, self._elements("cpu").max_connected)

    @property
    def cutoff_bound(self) -> float:
        """Bound of the change of any energy by integrals and elements that the cutoff leaves out, in Hartree."""
        small = [np.abs(x[np.abs(x) <= self.cutoff]).sum() for x in (self.integrals.one_body, self.integrals.two_body)]
        spins = 2 if self.integrals.is_restricted else 1
        # Of each pair p >= q two orders, of each of two spins; (pq|rs) with its factor 1/2.
        return float(spins * 2 * small[0] + spins * 4 * small[1])

    def diagonal(self, n: UInt8[Tensor, "B M"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""
        return self._elements(n.device).diagonal(n)

    def connected(self, n: UInt8[Tensor, "B M"]) -> Connected:
        """One or two electrons moved."""
        return self._elements(n.device).connected(n)

    def _elements(self, device: torch.device | str) -> SlaterCondon:
        device = torch.device(device)
        if device not in self._tables:
            bits = [sum(label[k] << r for r, label in enumerate(self.parities)) for k in range(2 * self._M)]
            self._tables[device] = SlaterCondon(
                self.integrals.without_small(self.cutoff), (self.n_up, self.n_down), tuple(bits), self.cutoff, device,
                self.spin_penalty,
            )  # fmt: skip
        return self._tables[device]

    @cached_property
    def _tables(self) -> dict[torch.device, SlaterCondon]:
        return {}

    @property
    def _M(self) -> int:
        return self.integrals.n_orbitals

    def __str__(self) -> str:
        orbitals = "restricted" if self.integrals.is_restricted else "unrestricted"
        return (
            f"{self.name}, H = E_core + sum h_pq a+_ps a_qs + 1/2 sum (pq|rs) a+_ps a+_rt a_st a_qs, "
            f"{self.n_up} up and {self.n_down} down electrons in {self._M} {orbitals} orbitals"
        )

    __repr__ = __str__
