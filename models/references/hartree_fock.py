r"""Unrestricted Hartree-Fock: the determinant of lowest energy, whose sign serves as a reference phase.

    H = sum_ab h_ab c+_a c_b + 1/2 sum_ab W_ab n_a n_b,     a, b = sites and spins,
    E(P) = Tr h P + 1/2 sum_ab W_ab (P_aa P_bb - |P_ab|^2),    F = dE/dP = h + diag(W diag P) - W * P  (elementwise),

for determinants with fixed numbers of up and down electrons (or of spinless fermions): P = Q Q+ with orthonormal
orbitals Q of each spin. U joins the two spins on a site and gives the Hartree term alone; neighbours that repel by V
also have the exchange term of equal spins. Up and down densities may differ, which lets the determinant break the
symmetries of the Hamiltonian, as in the antiferromagnet that a repulsive Hubbard model favours at half filling.
Hamiltonians with interactions of other kinds, such as molecules, give F themselves (nqs.hamiltonian.fock_of).

E is minimised directly over all orbitals (L-BFGS with the gradient 2 (1 - P) F Q), from several starts, and the lowest
minimum is kept. The self-consistent iteration (diagonalise F, fill the lowest levels) does not converge in open shells:
with on-site interactions electrons of one spin do not interact, so that degenerate levels stay degenerate. A minimum
still exists; its `gap` is then 0.

Szabo and Ostlund, Modern Quantum Chemistry, section 3.8; direct minimisation: Van Voorhis and Head-Gordon, Mol. Phys.
100, 1713 (2002); Bach, Lieb, Loss and Solovej, Phys. Rev. Lett. 72, 2981 (1994) on shells.
"""

# Shapes: S spins (2, or 1 for spinless fermions), L sites, N particles of one spin.
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nqs.estimators.energy_scale import energy_scale
from nqs.hilbert import HilbertSpace
from nqs.models.references.determinant import SlaterDeterminant
from nqs.protocols import Hamiltonian, fock_of, lattice_of

RANDOM_STARTS = (0, 1, 2, 3)  # seeds
POLISHING = 2000  # largest number of steps
HISTORY = 12  # steps whose matrices are extrapolated from
# In units of the energy scale (nqs.estimators.energy_scale):
ROUNDING = 1e-13  # of F P - P F
SAME = 1e-8  # solutions with energies closer than this count as one (or as symmetry partners)


@dataclass(frozen=True, kw_only=True)
class HartreeFock:
    """A mean-field solution.

    Attributes:
        determinant: its reference phase.
        energy: mean-field energy, an upper bound of the ground-state energy in the sector.
        densities: of up and of down electrons, (2, L), or of spinless fermions, (1, L).
        gap: between the last occupied and the first empty level of the same spin, the smaller one of both spins. Where
            it is 0 the shell is open, and other determinants have the same energy. (Where equal spins attract each
            other, V < 0, the orbitals of lowest energy need not be the lowest levels; it is 0 then too.)
        start: the start that converged to it.
        energies: converged energy of each start.
        solutions: one determinant for each distinct energy found, lowest first.
    """

    determinant: SlaterDeterminant
    energy: float
    densities: np.ndarray
    gap: float
    start: str | int
    energies: dict[str | int, float]
    solutions: tuple[SlaterDeterminant, ...]


def hartree_fock(
    hamiltonian: Hamiltonian,
    *,
    starts: Sequence[str | int] | None = None,
    symmetry_breaking: float = 1.0,
    tolerance: float = 1e-6,
    max_iterations: int = 5000,
) -> HartreeFock:
    """The determinant of lowest energy among the minima reached from several starts.

    Real orbitals where the Hamiltonian is real, complex ones where it is twisted. The numbers below are properties of
    this solver, the same for all problems.

    Args:
        hamiltonian: lattice fermions with density-density interactions and fixed numbers, such as `FermiHubbard`
            (t, t2, U, V, potential, field, twist) and `TV`, or electrons of a molecule. Two-body terms of other kinds
            are ignored where the Hamiltonian gives no Fock matrices.
        starts: fields whose ground states are the first orbitals: "uniform" (none, the symmetries of the hopping stay),
            "staggered" (opposite on the two sublattices and for the two spins), or the seed of a random field. None:
            all of these, "staggered" where the lattice is bipartite.
        symmetry_breaking: strength of these fields, in units of the energy scale (nqs.estimators.energy_scale).
        tolerance: largest element of the gradient (1 - P) F Q, in the same units; the error of the energy is quadratic
            in it.
        max_iterations: of each start.

    Raises:
        ValueError: no lattice fermions with fixed numbers, a "staggered" start without two sublattices, or an unknown
            start.
        RuntimeError: no start converged.
    """
    hilbert = hamiltonian.hilbert
    numbers = _numbers(hilbert)
    scale, constant = energy_scale(hamiltonian), _constant(hamiltonian)
    problem = _problem(hamiltonian, len(numbers), scale)
    if starts is None:
        starts = ("uniform", *(("staggered",) if _is_bipartite(hamiltonian) else ()), *RANDOM_STARTS)
    found: dict[str | int, tuple[float, list[np.ndarray]]] = {}
    rest = np.inf
    for start in starts:
        field = symmetry_breaking * _field(hamiltonian, start, len(numbers))
        orbitals = [
            np.linalg.eigh(h + np.diag(v))[1][:, :N] for h, v, N in zip(problem.one_body, field, numbers, strict=True)
        ]
        energy, orbitals, gradient = _minimised(problem, orbitals, tolerance, max_iterations)
        if gradient <= tolerance:
            found[start] = energy, orbitals
        rest = min(rest, gradient)
    if not found:
        raise RuntimeError(
            f"Hartree-Fock did not converge in {max_iterations} iterations from any of the starts {list(starts)} (the "
            f"smallest gradient left is {rest:.1e}): raise max_iterations or the tolerance, or give other starts."
        )
    different: list[str | int] = []  # starts, the lowest energy first
    for name in sorted(found, key=lambda name: round(found[name][0] / SAME)):
        if not different or found[name][0] > found[different[-1]][0] + SAME:
            different.append(name)
    polished = [_polished(problem, found[name][1], tolerance) for name in different]
    start, (energy, orbitals) = different[0], polished[0]
    fock = problem.fock(_densities(orbitals))
    levels = [np.linalg.eigvalsh(f) for f in fock]
    gaps = [e[N] - e[N - 1] for e, N in zip(levels, numbers, strict=True) if 0 < N < len(e)]
    return HartreeFock(
        determinant=_with_positive_peak(orbitals),
        solutions=tuple(_with_positive_peak(q) for _, q in polished),
        energy=constant + scale * energy,
        densities=np.array([np.square(np.abs(q)).sum(1) for q in orbitals]),
        gap=scale * max(0.0, min(gaps, default=np.inf)),
        start=start,
        energies={name: constant + scale * energy for name, (energy, _) in found.items()},
    )


def free_fermions(hamiltonian: Hamiltonian) -> SlaterDeterminant:
    """Determinant of the lowest one-particle levels, interactions left out; fermions with fixed numbers, as above."""
    numbers = _numbers(hamiltonian.hilbert)
    levels = [np.linalg.eigh(h)[1] for h in _problem(hamiltonian, len(numbers)).one_body]
    return _with_positive_peak([q[:, :N] for q, N in zip(levels, numbers, strict=True)])


def mean_field_energies(hamiltonian: Hamiltonian, densities: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """E(P) above of each P, also of transition densities of two determinants: <D|H|D'> / <D|D'>.

    Args:
        densities: for each P the matrices of all spins, (L, L).
    """
    problem = _problem(hamiltonian, len(densities[0]))
    return _constant(hamiltonian) + np.array([problem.energy(np.array(P)) for P in densities])


def _with_positive_peak(orbitals: list[np.ndarray]) -> SlaterDeterminant:
    """The determinant of these orbitals, positive on its most likely configuration (found greedily), as where it
    vanishes by symmetry and the reference has to choose some sign."""
    from scipy.linalg import qr  # here, because it takes long to import

    fixed = []
    for q in orbitals:
        likely = np.sort(qr(q.conj().T, mode="r", pivoting=True)[1][: q.shape[1]])
        sign = np.linalg.slogdet(q[likely])[0]
        fixed.append(np.concatenate([q[:, :1] / sign, q[:, 1:]], axis=1))
    return SlaterDeterminant.from_orbitals(*fixed)


# ---- minimisation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """E as a function of the densities, (S, L, L).

    Attributes:
        one_body: h of each spin, (S, L, L).
        fock: F of each spin.
        shift: bound of the differences between levels that the interaction makes.
    """

    one_body: np.ndarray
    fock: Callable[[np.ndarray], np.ndarray]
    shift: float

    def energy(self, P: np.ndarray) -> float:
        """Tr h P + Tr F P counts the interaction twice."""
        return float(((self.one_body + self.fock(P)) * P.swapaxes(1, 2)).sum().real / 2)


def _densities(orbitals: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([q @ q.conj().T for q in orbitals])


def _minimised(
    problem: _Problem, orbitals: list[np.ndarray], tolerance: float, max_iterations: int
) -> tuple[float, list[np.ndarray], float]:
    """Energy, orthonormal orbitals of each spin, (L, N), and largest gradient element at a local minimum of E.

    E depends only on the space that the orbitals of a spin span, so that they are varied without constraint.
    """
    from scipy.optimize import minimize  # here, because it takes long to import

    shapes, dtype = [q.shape for q in orbitals], problem.one_body.dtype
    ends = np.cumsum([q.size for q in orbitals])[:-1]

    def unpacked(x: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(shape) for part, shape in zip(np.split(x.view(dtype), ends), shapes, strict=True)]

    def energy_and_gradient(x: Any) -> Any:
        Q, R = zip(*map(np.linalg.qr, unpacked(x)), strict=True)
        P = _densities(Q)
        F = problem.fock(P)
        energy = float(((problem.one_body + F) * P.swapaxes(1, 2)).sum().real / 2)
        residual = [f @ q - q @ (q.conj().T @ f @ q) for f, q in zip(F, Q, strict=True)]
        gradient = [2 * np.linalg.solve(r, g.conj().T).conj().T for g, r in zip(residual, R, strict=True)]
        return energy, np.concatenate([g.ravel() for g in gradient]).view(float)

    x: Any = np.concatenate([q.astype(dtype).ravel() for q in orbitals]).view(float)
    left = np.inf
    options: Any = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 0.0, "gtol": tolerance}
    for _ in range(2):  # a second run discards an L-BFGS history degraded by rounding errors
        x = minimize(energy_and_gradient, x, jac=True, method="L-BFGS-B", options=options).x
        Q = [np.linalg.qr(q)[0] for q in unpacked(x)]
        x = np.concatenate([q.ravel() for q in Q]).view(float)
        energy, gradient = energy_and_gradient(x)
        left = float(np.abs(gradient).max(initial=0.0)) / 2
        if left <= tolerance:
            break
    return float(energy), Q, left


def _polished(problem: _Problem, orbitals: list[np.ndarray], tolerance: float) -> tuple[float, list[np.ndarray]]:
    """The same minimum to machine precision, which L-BFGS cannot resolve: amplitudes zero by symmetry then vanish.

    Level shifts keep the occupied orbitals occupied: Saunders and Hillier, Int. J. Quantum Chem. 7, 699 (1973).
    Extrapolation of the Fock matrices (DIIS): Pulay, Chem. Phys. Lett. 73, 393 (1980).
    """
    kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=HISTORY)
    for _ in range(POLISHING):
        P = _densities(orbitals)
        F = problem.fock(P)
        errors = F @ P - P @ F
        if np.abs(errors).max() < ROUNDING:
            break
        kept.append((F - problem.shift * P, errors))
        orbitals = [np.linalg.eigh(f)[1][:, : q.shape[1]] for f, q in zip(_extrapolated(kept), orbitals, strict=True)]
    return problem.energy(P), orbitals


def _extrapolated(kept: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The combination of Fock matrices, weights of sum 1, with the smallest combined error F P - P F."""
    *before, (fock, error) = kept
    if not before:
        return fock
    columns = np.stack([(e - error).view(float).ravel() for _, e in before], axis=1)
    weights = np.linalg.lstsq(columns, -error.view(float).ravel(), rcond=None)[0]
    return fock + sum(w * (f - fock) for w, (f, _) in zip(weights, before, strict=True))


# ---- the problem -----------------------------------------------------------------------------------


def _numbers(hilbert: HilbertSpace) -> list[int]:
    """Up and down electrons, or spinless fermions: species k is bit k of a local state."""
    by_bits = {species.occupation: species for species in hilbert.of_kind("fermion")}
    bits: dict[int, list[tuple[int, ...]]] = {2: [(0, 1)], 4: [(0, 1, 0, 1), (0, 0, 1, 1)]}
    wanted = bits.get(hilbert.local_dim, [])
    numbers = [hilbert.number_of(by_bits[row]) for row in wanted if row in by_bits]
    fixed = [number for number in numbers if number is not None]
    if not fixed or len(fixed) < len(wanted):
        raise ValueError(
            f"a mean field needs fermions with fixed numbers (fermions or spinful_fermions); the space is {hilbert}."
        )
    return fixed


def _constant(hamiltonian: Hamiltonian) -> float:
    """Energy without particles."""
    return hamiltonian.diagonal(torch.zeros(1, hamiltonian.hilbert.n_sites, dtype=torch.uint8)).item()


def _problem(hamiltonian: Hamiltonian, n_spins: int, scale: float = 1.0) -> _Problem:
    """E of the Hamiltonian, in units of `scale`."""
    of_hamiltonian = fock_of(hamiltonian)
    if of_hamiltonian is not None:
        L = hamiltonian.hilbert.n_sites
        h = of_hamiltonian(np.zeros((n_spins, L, L))) / scale
        full = of_hamiltonian(np.broadcast_to(np.eye(L), h.shape)) / scale
        return _Problem(h, lambda P: of_hamiltonian(P) / scale, float(np.abs(full - h).sum(2).max()))
    one_body, interaction = _couplings(hamiltonian, n_spins, scale)

    def fock(P: np.ndarray) -> np.ndarray:
        hartree = np.einsum("saub,ub->sa", interaction, P.diagonal(axis1=1, axis2=2).real)
        exchange = [interaction[s, :, s] * p for s, p in enumerate(P)]
        return np.array([h + np.diag(v) - x for h, v, x in zip(one_body, hartree, exchange, strict=True)])

    return _Problem(np.array(one_body), fock, float(np.abs(interaction).sum((2, 3)).max()))


def _couplings(hamiltonian: Hamiltonian, n_spins: int, scale: float = 1.0) -> tuple[list[np.ndarray], np.ndarray]:
    """h of each spin, (L, L), and W, (S, L, S, L), from the elements of one and the energies of two particles.

    Args:
        scale: unit of energy of both.
    """
    L = hamiltonian.hilbert.n_sites
    alone = torch.cat([torch.eye(L, dtype=torch.uint8) << spin for spin in range(n_spins)])  # (S L, L)
    constant = _constant(hamiltonian)
    energies = hamiltonian.diagonal(alone) - constant
    hops = hamiltonian.connected(alone)
    h = torch.diag(energies).to(hops.elements.dtype)
    spin, site = hops.configurations.max(1).values.long() - 1, hops.configurations.argmax(1)
    h[hops.parents, spin * L + site] = hops.elements
    a, b = torch.triu_indices(n_spins * L, n_spins * L, offset=1)
    W = torch.zeros(n_spins * L, n_spins * L, dtype=torch.float64)
    W[a, b] = hamiltonian.diagonal(alone[a] + alone[b]) - constant - energies[a] - energies[b]
    W = (W + W.T) / scale
    matrices = (h / scale).reshape(n_spins, L, n_spins, L).numpy()
    return [matrices[s, :, s] for s in range(n_spins)], W.view(n_spins, L, n_spins, L).numpy()


def _field(hamiltonian: Hamiltonian, start: str | int, n_spins: int) -> np.ndarray:
    """Energies of each spin on each site, (S, L), of order 1."""
    L = hamiltonian.hilbert.n_sites
    if isinstance(start, int):
        return np.random.default_rng(start).uniform(-1, 1, (n_spins, L))
    if start == "uniform":
        return np.zeros((n_spins, L))
    if start == "staggered":
        lattice = lattice_of(hamiltonian)
        if lattice is None:
            raise ValueError("start 'staggered' needs a lattice with two sublattices: the Hamiltonian has no lattice.")
        return np.outer([-1.0, 1.0][:n_spins], 1.0 - 2.0 * lattice.sublattices().numpy())
    raise ValueError(
        f"start {start!r} is unknown: choose 'uniform', 'staggered', or an integer, the seed of a random one."
    )


def _is_bipartite(hamiltonian: Hamiltonian) -> bool:
    lattice = lattice_of(hamiltonian)
    try:
        return lattice is not None and lattice.sublattices() is not None
    except ValueError:
        return False
