r"""Expectation values from samples, each with its standard error; exact ones from exhaustive samples.

Every observable has one implementation, over weighted distinct configurations with their amplitudes. `exact_samples`
turns a state vector into such samples, with error bars of zero, and `StateVector` into a wavefunction:

    samples, psi = exact_samples(hilbert, ground.state), StateVector(hilbert, ground.state)
    one_body_density_matrix(samples, psi).value

Diagonal observables are averages over the samples. All others average the local value, as the energy does,

    O_loc(n) = sum_n' <n|O|n'> psi(n') / psi(n),

where each n' is looked up among the samples and otherwise evaluated. Error bars are made as in nqs.error_bars. For
nonlinear functions (connected correlations, fidelity, entropy, condensate fraction) they are propagated to first order.
The error of a complex value is sqrt(Var Re + Var Im).

Fermions: Jordan-Wigner order, all orbitals of one species before those of the next, in the order of the sites.
"""

# Shapes: b samples of a chunk, L sites, K wave vectors or permutations.
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex128, Float64, Int64
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.hilbert.fermion_signs import fermions_between
from nqs.lattice.lattice import Lattice
from nqs.observables.expectation import Expectation, LocalValues, means
from nqs.observables.momenta import plane_waves
from nqs.observables.moves import MOVES_CPU_BYTES, AmplitudeRatios, PairAverage, bytes_of_moves
from nqs.observables.species import at_sites, ladders, species_hint
from nqs.protocols import Wavefunction
from nqs.samples import Samples


class LocalMatrix(NamedTuple):
    """Local values of the one-body density matrix.

    Attributes:
        values: of (a+_i a_j + (a+_j a_i)^dagger) / 2, summed over the kinds of particles, not averaged.
        excess: of the moves a+_i a_j, squared element less |local value|^2 (`PairAverage.with_second`).
        turned: the same times exp(2 i arg) of the local value.
    """

    values: Complex128[Tensor, "b L L"]
    excess: Float64[Tensor, "b L L"]
    turned: Complex128[Tensor, "b L L"]


def _local_one_body(
    samples: Samples, wavefunction: Wavefunction, spin: str | None
) -> Callable[[Int64[Tensor, " b"]], LocalMatrix]:
    """Function that gives the local values for rows of the samples."""
    kinds, known = ladders(wavefunction.hilbert, spin), AmplitudeRatios(wavefunction, samples)

    def local(rows: Tensor) -> LocalMatrix:
        n = samples.configurations[rows]
        L = n.shape[1]
        x = torch.zeros((len(n), L, L), dtype=torch.complex128, device=n.device)
        excess, turned = torch.zeros_like(x.real), torch.zeros_like(x)
        elsewhere = ~torch.eye(L, dtype=torch.bool, device=n.device)
        for kind in kinds:
            occupation, lowered, raised = (at_sites(table, n) for table in kind[:3])  # (b, L) each
            x += torch.diag_embed(occupation)
            # <n|a+_i a_j|n'> with n' = n - e_i + e_j.
            row, i, j = ((lowered >= 0)[:, :, None] & (raised >= 0)[:, None, :] & elsewhere).nonzero().T
            k = torch.arange(len(row), device=n.device)
            n_prime = n[row]
            n_prime[k, i] = lowered[row, i].to(torch.uint8)
            n_prime[k, j] = raised[row, j].to(torch.uint8)
            element = (occupation[row, i] * (occupation[row, j] + 1)).sqrt()
            if kind.is_fermion:
                element = element * (1 - 2 * (fermions_between(occupation > 0, row, i, j) % 2))
            values = element * known.ratios(n_prime, rows[row])
            moved = torch.zeros_like(x)
            moved[row, i, j] = values
            x += (moved + moved.mH) / 2
            more = element.square() - values.abs().square()
            excess[row, i, j] += more
            turned[row, i, j] += torch.polar(more.abs(), 2 * values.angle()) * more.sign()
        return LocalMatrix(x, excess, turned)

    return local


def _reach(
    hilbert: HilbertSpace, spin: str | None, permutations: Int64[Tensor, "K L"] | None, device: torch.device
) -> Float64[Tensor, "L L"]:
    """Largest density, on the diagonal; nan elsewhere, and where it is averaged over permutations."""
    largest = sum(kind.occupation.max().item() for kind in ladders(hilbert, spin))
    reach = torch.full((hilbert.n_sites,) * 2, torch.nan, dtype=torch.float64, device=device)
    return reach if permutations is not None else reach.fill_diagonal_(largest)


def _averaged(x: LocalMatrix, average: PairAverage) -> LocalValues:
    return average.with_second(x.values, (x.excess + x.excess.mT) / 4)


def _occupations(x: LocalMatrix, orbitals: Complex128[Tensor, "K L"], average: PairAverage) -> LocalValues:
    """Local values of the occupation of orbitals, <v|rho|v>, (b, K)."""
    values, second = _averaged(x, average)
    found = _quadratic(values, orbitals)
    if average.classes is None:  # (Re v_i* x_ij v_j)^2 = (|v_i|^2 |x_ij|^2 |v_j|^2 + Re v_i*^2 x_ij^2 v_j^2) / 2
        weights = orbitals.abs().square().to(values.dtype)
        excess = (_quadratic(x.excess.to(values.dtype), weights) + _quadratic(x.turned, orbitals.square())) / 2
    else:
        pairs = (orbitals.conj()[:, :, None] * orbitals[:, None, :]).flatten(1)  # (K, L^2)
        of_class = average(pairs.view(len(pairs), *values.shape[1:])).flatten(1).abs().square()
        of_class = of_class * average.numbers[average.classes]
        excess = (second - values.abs().square()).flatten(1) @ of_class.T
    return LocalValues(found, found.square() + excess)


def _quadratic(x: Complex128[Tensor, "b L L"], v: Complex128[Tensor, "K L"]) -> Float64[Tensor, "b K"]:
    """Re <v|x|v>."""
    return torch.einsum("bki,ki->bk", torch.einsum("bij,kj->bki", x, v), v.conj()).real


@torch.no_grad()
def one_body_density_matrix(
    samples: Samples,
    wavefunction: Wavefunction,
    *,
    spin: str | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
) -> Expectation:
    """rho_ij = <a+_i a_j>, (L, L), Hermitian, complex128; its trace is the number of particles.

    On spaces with a cutoff a+ does not lead beyond it.

    Args:
        samples: of the wavefunction, or of an exact state together with its `StateVector`.
        wavefunction: amplitudes of configurations that were not sampled.
        spin: "up" or "down" electrons; None for the sum of both, and for particles without spin.
        permutations: a group under which rho is symmetric: local values are averaged over it, so that one member of
            each of its orbits may stand for all.

    Raises:
        ValueError: neither bosons nor fermions, or a spin where there is none.
    """
    hilbert, device = wavefunction.hilbert, samples.weights.device
    local, average = _local_one_body(samples, wavefunction, spin), PairAverage(permutations, device)
    return means(
        samples,
        lambda rows: _averaged(local(rows), average),
        bytes_of_moves(hilbert.n_sites),
        MOVES_CPU_BYTES,
        _reach(hilbert, spin, permutations, device),
    )


@torch.no_grad()
def one_body_quantity(
    samples: Samples, wavefunction: Wavefunction, constant: np.ndarray, matrices: np.ndarray
) -> Expectation:
    """constant + sum_ij matrices_ij <a+_i a_j>, (K,), both spins together.

    Args:
        samples, wavefunction: as in `one_body_density_matrix`.
        constant: (K,).
        matrices: real and symmetric, (K, L, L).
    """
    device = samples.weights.device
    local, m, c = _local_one_body(samples, wavefunction, None), torch.tensor(matrices, device=device), constant
    found = means(
        samples,
        lambda rows: torch.einsum("kij,bij->bk", m, local(rows).values.real),
        bytes_of_moves(wavefunction.hilbert.n_sites),
        MOVES_CPU_BYTES,
    )
    return Expectation(found.value + torch.tensor(c, device=device), found.error)


@torch.no_grad()
def natural_occupations(samples: Samples, wavefunction: Wavefunction, matrix: Complex128[Tensor, "L L"]) -> Expectation:
    """Eigenvalues of the one-body density matrix, the largest first, (L,), with errors to first order.

    Args:
        samples, wavefunction: as in `one_body_density_matrix`.
        matrix: the density matrix.
    """
    occupations, orbitals = torch.linalg.eigh(matrix)
    local, v = _local_one_body(samples, wavefunction, None), orbitals.mT.flip(0)
    error = means(
        samples,
        lambda rows: _quadratic(local(rows).values, v.contiguous()),
        bytes_of_moves(wavefunction.hilbert.n_sites),
        MOVES_CPU_BYTES,
    ).error
    return Expectation(occupations.flip(0), error)


def momentum_distribution(
    samples: Samples,
    wavefunction: Wavefunction,
    lattice: Lattice,
    wave_vectors: Tensor | np.ndarray | None = None,
    *,
    spin: str | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
) -> Expectation:
    """n(k) = 1/L sum_ij exp(i k (r_i - r_j)) <a+_i a_j>, (K,).

    On a lattice with one site in a cell, the allowed momenta sum up to the number of particles.

    Args:
        samples, wavefunction, spin, permutations: as in `one_body_density_matrix`.
        lattice: coordinates of the sites.
        wave_vectors: (K, D); by default the allowed momenta, shifted by half a step in antiperiodic directions.

    Raises:
        ValueError: as `one_body_density_matrix`; a lattice of another size; open boundaries and no wave vectors.
    """
    return one_body(samples, wavefunction, lattice, wave_vectors, spin=spin, permutations=permutations)[1]


@torch.no_grad()
def one_body(
    samples: Samples,
    wavefunction: Wavefunction,
    lattice: Lattice,
    wave_vectors: Tensor | np.ndarray | None = None,
    *,
    spin: str | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
) -> tuple[Expectation, Expectation]:
    """`one_body_density_matrix` and `momentum_distribution` from the same amplitudes; arguments as there."""
    hilbert, device, L = wavefunction.hilbert, samples.weights.device, lattice.n_sites
    local_matrix, average = _local_one_body(samples, wavefunction, spin), PairAverage(permutations, device)
    waves = plane_waves(lattice, hilbert, wave_vectors, antiperiodic=True).to(device)

    def local(rows: Tensor) -> LocalValues:
        x = local_matrix(rows)
        parts = zip(_averaged(x, average), _occupations(x, waves.conj(), average), strict=True)
        return LocalValues(
            *(torch.cat([matrix.flatten(1), number.to(matrix.dtype)], dim=1) for matrix, number in parts)
        )

    of_matrix = _reach(hilbert, spin, permutations, device).flatten()
    reach = torch.cat([of_matrix, of_matrix.new_full((len(waves),), torch.nan)])
    value, error = means(samples, local, bytes_of_moves(L) + 64 * waves.numel(), MOVES_CPU_BYTES, reach)
    matrix = Expectation(value[: L * L].view(L, L), error[: L * L].view(L, L))
    return matrix, Expectation(value[L * L :].real, error[L * L :])


@torch.no_grad()
def condensate_fraction(
    samples: Samples,
    wavefunction: Wavefunction,
    *,
    matrix: Complex128[Tensor, "L L"] | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
) -> Expectation:
    """Largest eigenvalue of the one-body density matrix over the number of bosons (Penrose and Onsager), a scalar.

    The error is that of the occupation of the leading orbital; noise in the matrix also lifts its largest eigenvalue,
    by an amount of second order in the error.

    Args:
        samples, wavefunction, permutations: as in `one_body_density_matrix`.
        matrix: its value of `one_body_density_matrix`, (L, L), if it is known.

    Raises:
        ValueError: the particles are no bosons.
    """
    hilbert = wavefunction.hilbert
    if hilbert.of_kind("fermion") or not hilbert.of_kind("boson"):
        raise ValueError(f"a condensate fraction needs bosons; the space is {hilbert}{species_hint(hilbert)}.")
    if matrix is None:
        matrix = one_body_density_matrix(samples, wavefunction, permutations=permutations).value
    values, orbitals = torch.linalg.eigh(matrix)
    v, number = orbitals[:, -1], matrix.trace().real
    fraction = values[-1] / number
    local_matrix, average = _local_one_body(samples, wavefunction, None), PairAverage(permutations, matrix.device)

    def local(rows: Tensor) -> LocalValues:  # first-order change of the fraction, mean 0
        x = local_matrix(rows)
        occupation, second = _occupations(x, v[None], average)
        change = (occupation[:, 0] - fraction * x.values.diagonal(dim1=1, dim2=2).sum(1).real) / number
        excess = (second - occupation.square())[:, 0] / number.square()
        return LocalValues(change, change.square() + excess)

    return Expectation(fraction, means(samples, local, bytes_of_moves(hilbert.n_sites), MOVES_CPU_BYTES).error)
