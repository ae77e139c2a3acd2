r"""Expectation values from samples, each with its standard error; exact ones from exhaustive samples.

Every observable has one implementation, over weighted distinct configurations with their amplitudes. `exact_samples`
turns a state vector into such samples, with error bars of zero, and `StateVector` into a wavefunction:

    samples, psi = exact_samples(hilbert, ground.state), StateVector(hilbert, ground.state)
    one_body_density_matrix(samples, psi).value

Diagonal observables are averages over the samples. All others average the local value, as the energy does,

    O_loc(n) = sum_n' <n|O|n'> psi(n') / psi(n),

where each n' is looked up among the samples and otherwise evaluated. Error bars are those of `estimate_energy`: with
N independent samples the variance over N - 1; without replacement only what could have been missed fluctuates;
zero for an exhaustive sum. For nonlinear functions (connected correlations, fidelity, entropy, condensate fraction)
they are propagated to first order. The error of a complex value is sqrt(Var Re + Var Im).

Fermions: Jordan-Wigner order as in nqs.hamiltonians.jordan_wigner, all up orbitals first, in the order of the sites.
"""

# Shapes: U samples, L sites, d local states, K wave vectors, D dimensions, M moves or pairs.
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex128, Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.chunks import rows_that_fit
from nqs.hamiltonians.jordan_wigner import electrons_between
from nqs.hilbert import HilbertSpace
from nqs.lattice import Lattice
from nqs.local_energy import amplitudes_with_cache
from nqs.protocols import LogPsi, SymmetricWavefunction, Wavefunction
from nqs.samples import Lookup, Samples, distinct

NORM_TOLERANCE = 1e-6  # of state vectors
MOVES_CPU_BYTES = 2**28  # configurations of moved particles handled at once on a CPU: more of them share more
PAIRS = 2**16  # pairs of samples behind a Renyi entropy

UP, DOWN = "up electrons", "down electrons"  # names of the charges


class Expectation(NamedTuple):
    """An estimate and its standard error, element by element."""

    value: Num[Tensor, "*shape"]
    error: Float64[Tensor, "*shape"]


# ---- exact states ----------------------------------------------------------------------------------


class StateVector(Wavefunction):
    """A state given by its amplitudes in lexicographic order, as a wavefunction without parameters.

    Raises:
        ValueError: the vector does not have the dimension of the sector, or is not normalised.
    """

    log_modulus: Tensor
    angle: Tensor

    def __init__(self, hilbert: HilbertSpace, state: np.ndarray | Tensor) -> None:
        super().__init__()
        psi = _amplitudes(hilbert, state)
        self.hilbert = hilbert
        self.has_phase = True
        self.register_buffer("log_modulus", psi.abs().log())
        self.register_buffer("angle", psi.angle())

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        inside = self.hilbert.contains(n)
        log_modulus = torch.full((len(n),), -math.inf, dtype=torch.float64, device=n.device)
        phase = torch.zeros_like(log_modulus)
        index = self.hilbert.rank(n[inside])
        log_modulus[inside], phase[inside] = self.log_modulus[index], self.angle[index]
        return LogPsi(log_modulus, phase)

    @property
    def bytes_per_configuration(self) -> int:
        return 64 * self.hilbert.n_sites


def exact_samples(hilbert: HilbertSpace, state: np.ndarray | Tensor, *, device: torch.device | str = "cpu") -> Samples:
    """Exhaustive samples of a normalised vector in lexicographic order; configurations of weight 0 are left out.

    Raises:
        ValueError: the vector does not have the dimension of the sector, or is not normalised.
    """
    psi = _amplitudes(hilbert, state).to(device)
    index = (psi.abs().square() > 0).nonzero()[:, 0]
    psi = psi[index]
    return Samples(
        configurations=hilbert.unrank(index),
        weights=psi.abs().square(),
        log_modulus=psi.abs().log(),
        phase=psi.angle(),
        inclusion=torch.ones(len(index), dtype=torch.float64, device=device),
    )


def _amplitudes(hilbert: HilbertSpace, state: np.ndarray | Tensor) -> Complex128[Tensor, " dimension"]:
    psi = torch.as_tensor(state).to(torch.complex128)
    if psi.shape != (hilbert.dimension,):
        raise ValueError(
            f"the state vector has shape {tuple(psi.shape)}; give one amplitude for each of the {hilbert.dimension:,} "
            f"configurations of the sector, in lexicographic order: {hilbert}."
        )
    norm = torch.linalg.vector_norm(psi).item()
    if not abs(norm - 1) < NORM_TOLERANCE:
        raise ValueError(f"the state vector has norm {norm:.8g}: normalise it to 1.")
    return psi / norm


# ---- means and errors ------------------------------------------------------------------------------


def _real_means(samples: Samples, x: Num[Tensor, "U ..."]) -> Expectation:
    """Mean of values that are all there."""
    return _means(samples, lambda rows: x[rows], 16 * max(1, x[0].numel()))


def _means(
    samples: Samples,
    local_values: Callable[[Int64[Tensor, " b"]], Tensor],
    bytes_per_sample: int,
    cpu_bytes: int | None = None,
) -> Expectation:
    """Mean and error of local values that are made in pieces: `local_values(rows)` has the shape (rows, ...)."""
    weights, c = samples.weights, samples.error_weights
    origin: Tensor | None = None  # a first guess of the mean: no cancellation between large sums
    for rows in torch.arange(len(weights), device=weights.device).split(
        rows_that_fit(bytes_per_sample, weights.device, cpu_bytes)
    ):
        x = local_values(rows)
        shape, x = x.shape[1:], x.flatten(1) if x.ndim > 1 else x[:, None]
        w, e = weights[rows].to(x.dtype), c[rows].to(x.dtype)
        if origin is None:
            origin = (w @ x) / w.sum() if w.sum() != 0 else x[0]
            mean, first = torch.zeros_like(origin), torch.zeros_like(origin)
            second = torch.zeros(origin.shape, dtype=torch.float64, device=weights.device)
        x = x - origin
        mean = mean + w @ x
        first = first + e @ x
        second = second + c[rows] @ x.abs().square()
    assert origin is not None
    square = second - 2 * (mean.conj() * first).real + c.sum() * mean.abs().square()
    return Expectation((origin + mean).view(shape), square.clamp(min=0).sqrt().view(shape))


# ---- diagonal observables --------------------------------------------------------------------------


def local_state_probabilities(samples: Samples, hilbert: HilbertSpace) -> Float64[Tensor, "L d"]:
    """Probability of every local state on every site."""
    L, d = hilbert.n_sites, hilbert.local_dim
    index = samples.configurations.long() + d * torch.arange(L, device=samples.weights.device)  # (U, L)
    weights = samples.weights[:, None].expand(-1, L)
    return torch.bincount(index.flatten(), weights.flatten(), minlength=L * d).view(L, d)


def site_values(hilbert: HilbertSpace, quantity: str) -> Float64[Tensor, " d"]:
    """The value of a quantity in every local state.

    Args:
        hilbert: the space.
        quantity: the name of one of its charges, such as "particles", "up electrons" or "2 Sz"; also "Sz" of spins and
            electrons, and "particles" of electrons.

    Raises:
        ValueError: the space has no such quantity; the message lists those it has.
    """
    known = {charge.name: torch.tensor(charge.values, dtype=torch.float64) for charge in hilbert.charges}
    if "2 Sz" in known:
        known["Sz"] = known["2 Sz"] / 2
    if UP in known and DOWN in known:
        known["particles"] = known[UP] + known[DOWN]
        known["Sz"] = (known[UP] - known[DOWN]) / 2
    if quantity not in known:
        names = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"{quantity!r} is no local quantity of this space, which has: {names}. Give one of them, or a tensor with "
            f"one value for each of the {hilbert.local_dim} local states."
        )
    return known[quantity]


def _on_sites(samples: Samples, hilbert: HilbertSpace, quantity: str | Tensor) -> Float64[Tensor, "U L"]:
    values = site_values(hilbert, quantity) if isinstance(quantity, str) else quantity.double()
    if values.shape != (hilbert.local_dim,):
        raise ValueError(
            f"the local quantity has shape {tuple(values.shape)}: give one value for each of the {hilbert.local_dim} "
            f"local states {hilbert.local_states}."
        )
    return values.to(samples.weights.device)[samples.configurations.long()]


def densities(samples: Samples, hilbert: HilbertSpace, quantity: str | Tensor) -> Expectation:
    """<q_i> of every site, (L,).

    Args:
        samples: of the state.
        hilbert: their space.
        quantity: name of a local quantity, see `site_values`, or its value in every local state, (d,).

    Raises:
        ValueError: no such quantity.
    """
    return _real_means(samples, _on_sites(samples, hilbert, quantity))


def correlations(
    samples: Samples,
    hilbert: HilbertSpace,
    quantity: str | Tensor,
    other: str | Tensor | None = None,
    *,
    connected: bool = False,
) -> Expectation:
    """<q_i p_j> of every pair of sites, (L, L), or <q_i p_j> - <q_i><p_j> if connected.

    Args:
        samples: of the state.
        hilbert: their space.
        quantity: q, as in `densities`.
        other: p; by default q.
        connected: subtract the product of the means.

    Raises:
        ValueError: no such quantity.
    """
    q = _on_sites(samples, hilbert, quantity)
    p = q if other is None else _on_sites(samples, hilbert, other)
    w, c = samples.weights, samples.error_weights
    if connected:  # to first order, the error is that of <(q - <q>) (p - <p>)> with the means held fixed
        q, p = q - w @ q, p - w @ p
    # Sums over samples of q_i p_j and of its square are matrix products.
    mean = (w[:, None] * q).T @ p
    first = (c[:, None] * q).T @ p
    second = (c[:, None] * q.square()).T @ p.square()
    square = second - 2 * mean * first + c.sum() * mean.square()
    # What rounding leaves of a variance that is zero, such as that of a conserved product, is dropped.
    return Expectation(mean, torch.where(square > 1e-14 * second, square, 0.0).sqrt())


def double_occupancy(samples: Samples, hilbert: HilbertSpace) -> Expectation:
    """<n_up n_down> of every site, (L,).

    Raises:
        ValueError: no space of spinful fermions.
    """
    _require_electrons(hilbert, "double occupancy")
    return densities(samples, hilbert, site_values(hilbert, UP) * site_values(hilbert, DOWN))


def allowed_momenta(lattice: Lattice, *, antiperiodic: bool = True) -> Float64[Tensor, "K D"]:
    """Wave vectors k = sum_d (m_d / N_d) b_d of the torus, m_d = 0 .. N_d - 1 in row-major order.

    b_d are the reciprocal vectors of the lattice.

    Args:
        lattice: all its directions are periodic or antiperiodic.
        antiperiodic: antiperiodic directions have m_d + 1/2, as plane waves of the particles do; densities and their
            correlations are periodic there too.

    Raises:
        ValueError: an open direction, or a lattice without directions: momentum is not conserved.
    """
    if not lattice.shape or "open" in lattice.boundary:
        raise ValueError(
            f"{lattice} has no allowed momenta: they need periodic (or antiperiodic) boundaries in all directions. "
            "Give wave_vectors."
        )
    shift = [0.5 if antiperiodic and word == "antiperiodic" else 0.0 for word in lattice.boundary]
    steps = np.indices(lattice.shape).reshape(len(lattice.shape), -1).T + np.array(shift)  # (K, D)
    reciprocal = 2 * np.pi * np.linalg.inv(np.array(lattice.vectors)).T  # rows b_d
    return torch.from_numpy(steps / np.array(lattice.shape) @ reciprocal)


def _plane_waves(
    lattice: Lattice, hilbert: HilbertSpace, wave_vectors: Tensor | np.ndarray | None, antiperiodic: bool
) -> Complex128[Tensor, "K L"]:
    """exp(i k r_j) / sqrt(L)."""
    if lattice.n_sites != hilbert.n_sites:
        raise ValueError(f"{lattice} has {lattice.n_sites} sites, the state has {hilbert.n_sites}: they must agree.")
    if wave_vectors is None:
        k = allowed_momenta(lattice, antiperiodic=antiperiodic)
    else:
        k = torch.as_tensor(wave_vectors, dtype=torch.float64).cpu()
    r = lattice.coordinates
    if k.ndim != 2 or k.shape[1] != r.shape[1]:
        raise ValueError(
            f"wave_vectors have shape {tuple(k.shape)}: give one row of {r.shape[1]} components for each of them."
        )
    angle = k @ r.T
    return torch.polar(torch.full_like(angle, lattice.n_sites**-0.5), angle)


def structure_factor(
    samples: Samples,
    hilbert: HilbertSpace,
    lattice: Lattice,
    quantity: str | Tensor,
    wave_vectors: Tensor | np.ndarray | None = None,
    *,
    connected: bool = False,
) -> Expectation:
    """S(k) = 1/L sum_ij exp(i k (r_i - r_j)) <q_i q_j>, (K,), or of the connected correlations.

    Args:
        samples: of the state.
        hilbert: their space.
        lattice: coordinates of the sites.
        quantity: q, as in `densities`.
        wave_vectors: (K, D); by default the allowed momenta of the periodic lattice.
        connected: use <q_i q_j> - <q_i><q_j>.

    Raises:
        ValueError: no such quantity, a lattice of another size, or open boundaries and no wave vectors.
    """
    q = _on_sites(samples, hilbert, quantity)
    if connected:
        q = q - samples.weights @ q
    waves = _plane_waves(lattice, hilbert, wave_vectors, antiperiodic=False).to(q.device)
    return _means(samples, lambda rows: (q[rows].to(waves.dtype) @ waves.T).abs().square(), 48 * len(waves) + 64)


# ---- one-body density matrix -----------------------------------------------------------------------


class _Species(NamedTuple):
    """One kind of particle: its number in every local state, and where adding or removing one leads (-1: nowhere)."""

    occupation: Float64[Tensor, " d"]
    lowered: Int64[Tensor, " d"]
    raised: Int64[Tensor, " d"]
    is_fermion: bool


def _is_electrons(hilbert: HilbertSpace) -> bool:
    return {UP, DOWN} <= {charge.name for charge in hilbert.charges}


def _is_spinless(hilbert: HilbertSpace) -> bool:
    return hilbert.local_states == ("empty", "occupied")


def _is_bosons(hilbert: HilbertSpace) -> bool:
    values = tuple(range(hilbert.local_dim))
    return not _is_spinless(hilbert) and any(c.name == "particles" and c.values == values for c in hilbert.charges)


def _require_electrons(hilbert: HilbertSpace, what: str) -> None:
    if not _is_electrons(hilbert):
        raise ValueError(f"{what} needs electrons with spin (spinful_fermions); the space is {hilbert}.")


def _species(hilbert: HilbertSpace, spin: str | None = None) -> list[_Species]:
    """The particles of a space; of electrons those with one spin, or both."""
    if spin not in (None, "up", "down"):
        raise ValueError(f"spin={spin!r}: choose 'up', 'down', or None for both.")
    if spin is not None:
        _require_electrons(hilbert, f"spin={spin!r}")
    if _is_electrons(hilbert):
        names = [UP, DOWN]
    elif _is_spinless(hilbert) or _is_bosons(hilbert):
        names = ["particles"]
    else:
        raise ValueError(
            f"the one-body density matrix needs bosons, fermions or spinful_fermions; the space is {hilbert}."
        )
    numbers = torch.stack([site_values(hilbert, name) for name in names]).T.long()  # (d, species)
    index = {tuple(row): state for state, row in enumerate(numbers.tolist())}
    species = []
    for s, name in enumerate(names):
        if spin is not None and not name.startswith(spin):
            continue
        step = torch.zeros(len(names), dtype=torch.int64)
        step[s] = 1
        species.append(
            _Species(
                occupation=numbers[:, s].double(),
                lowered=torch.tensor([index.get(tuple(row), -1) for row in (numbers - step).tolist()]),
                raised=torch.tensor([index.get(tuple(row), -1) for row in (numbers + step).tolist()]),
                is_fermion=not _is_bosons(hilbert),
            )
        )
    return species


class _Known:
    """Ratios of amplitudes to those of samples, which are looked up among themselves; by orbits where there are some.

    Args:
        wavefunction: amplitudes of configurations that were not sampled.
        samples: of the wavefunction.
    """

    def __init__(self, wavefunction: Wavefunction, samples: Samples) -> None:
        self.wavefunction, self.parents = wavefunction, samples
        if isinstance(wavefunction, SymmetricWavefunction):
            n, turn = wavefunction.fold(samples.configurations)
            first, _ = distinct(wavefunction.hilbert, n)
            samples = Samples(
                configurations=n[first],
                weights=samples.weights[first],
                log_modulus=samples.log_modulus[first],
                phase=(samples.phase - turn)[first],
            )
        self.samples = samples
        self.lookup = Lookup(wavefunction.hilbert, samples.configurations)

    def ratios(self, n: UInt8[Tensor, "M L"], parents: Int64[Tensor, " M"]) -> Complex128[Tensor, " M"]:
        """psi(n) / psi(parent), the parents being rows of the samples."""
        turn = torch.zeros((), dtype=torch.float64, device=n.device)
        if isinstance(self.wavefunction, SymmetricWavefunction):
            n, turn = self.wavefunction.fold(n)
        log_modulus, phase = amplitudes_with_cache(self.wavefunction, n, self.samples, self.lookup)[0]
        return torch.polar(
            (log_modulus - self.parents.log_modulus[parents]).exp(), phase + turn - self.parents.phase[parents]
        )


class _PairAverage:
    """Mean of a matrix of all pairs of sites over permutations of the sites, a group.

    Args:
        permutations: of the group; None for the identity alone.
    """

    def __init__(self, permutations: Int64[Tensor, "K L"] | None, device: torch.device) -> None:
        self.classes: Tensor | None = None
        if permutations is not None:
            L = permutations.shape[1]
            image = permutations[:, :, None] * L + permutations[:, None, :]  # of every pair
            classes, numbers = torch.unique(image.amin(0).flatten(), return_inverse=True, return_counts=True)[1:]
            self.classes, self.numbers = classes.to(device), numbers.to(device)

    def __call__(self, x: Num[Tensor, "b L L"]) -> Num[Tensor, "b L L"]:
        if self.classes is None:
            return x
        sums = x.new_zeros((len(x), len(self.numbers))).index_add_(1, self.classes, x.flatten(1))
        return (sums / self.numbers)[:, self.classes].view_as(x)


def _local_one_body(known: _Known, kinds: Sequence[_Species], rows: Int64[Tensor, " b"]) -> Complex128[Tensor, "b L L"]:
    """Local values of (a+_i a_j + (a+_j a_i)^dagger) / 2, summed over the kinds of particles."""
    n = known.parents.configurations[rows]
    L = n.shape[1]
    x = torch.zeros((len(n), L, L), dtype=torch.complex128, device=n.device)
    elsewhere = ~torch.eye(L, dtype=torch.bool, device=n.device)
    for kind in kinds:
        occupation, lowered, raised = (table.to(n.device)[n.long()] for table in kind[:3])  # (b, L) each
        x += torch.diag_embed(occupation)
        # <n|a+_i a_j|n'> with n' = n - e_i + e_j.
        row, i, j = ((lowered >= 0)[:, :, None] & (raised >= 0)[:, None, :] & elsewhere).nonzero().T
        k = torch.arange(len(row), device=n.device)
        n_prime = n[row]
        n_prime[k, i] = lowered[row, i].to(torch.uint8)
        n_prime[k, j] = raised[row, j].to(torch.uint8)
        element = (occupation[row, i] * (occupation[row, j] + 1)).sqrt()
        if kind.is_fermion:
            element = element * (1 - 2 * (electrons_between(occupation > 0, row, i, j) % 2))
        local = torch.zeros_like(x)
        local[row, i, j] = element * known.ratios(n_prime, rows[row])
        x += (local + local.mH) / 2
    return x


def _moves_bytes(n_sites: int) -> int:
    """Memory per sample for one configuration for every pair of sites."""
    return n_sites**2 * (24 * n_sites + 256)


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
    kinds, known = _species(wavefunction.hilbert, spin), _Known(wavefunction, samples)
    average = _PairAverage(permutations, samples.weights.device)
    return _means(
        samples,
        lambda rows: average(_local_one_body(known, kinds, rows)),
        _moves_bytes(wavefunction.hilbert.n_sites),
        MOVES_CPU_BYTES,
    )


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
    kinds = _species(wavefunction.hilbert, spin)
    waves = _plane_waves(lattice, wavefunction.hilbert, wave_vectors, antiperiodic=True).to(samples.weights.device)
    known, average = _Known(wavefunction, samples), _PairAverage(permutations, samples.weights.device)

    def local(rows: Tensor) -> Tensor:
        x = average(_local_one_body(known, kinds, rows))
        occupations = torch.einsum("bki,ki->bk", torch.einsum("bij,kj->bki", x, waves.conj()), waves).real
        return torch.cat([x.flatten(1), occupations.to(x.dtype)], dim=1)

    L = lattice.n_sites
    value, error = _means(samples, local, _moves_bytes(L) + 64 * waves.numel(), MOVES_CPU_BYTES)
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

    The error is that of the occupation of the orbital found; noise in the matrix also lifts its largest eigenvalue,
    by an amount of second order in the error.

    Args:
        samples, wavefunction, permutations: as in `one_body_density_matrix`.
        matrix: what that returned for them, if it is known.

    Raises:
        ValueError: the particles are no bosons.
    """
    hilbert = wavefunction.hilbert
    if not _is_bosons(hilbert):
        raise ValueError(f"a condensate fraction needs bosons; the space is {hilbert}.")
    if matrix is None:
        matrix = one_body_density_matrix(samples, wavefunction, permutations=permutations).value
    values, orbitals = torch.linalg.eigh(matrix)
    v, number = orbitals[:, -1], matrix.trace().real
    fraction = values[-1] / number
    if not samples.error_weights.any():
        return Expectation(fraction, torch.zeros_like(fraction))
    kinds, known = _species(hilbert), _Known(wavefunction, samples)
    average = _PairAverage(permutations, samples.weights.device)

    def local(rows: Tensor) -> Tensor:  # first-order change of the fraction, mean 0
        x = average(_local_one_body(known, kinds, rows))
        occupation = torch.einsum("i,bij,j->b", v.conj(), x, v).real
        return (occupation - fraction * x.diagonal(dim1=1, dim2=2).sum(1).real) / number

    return Expectation(fraction, _means(samples, local, _moves_bytes(hilbert.n_sites), MOVES_CPU_BYTES).error)


# ---- spins -----------------------------------------------------------------------------------------


@torch.no_grad()
def spin_correlations(
    samples: Samples, wavefunction: Wavefunction, *, permutations: Int64[Tensor, "K L"] | None = None
) -> Expectation:
    """<S_i . S_j> of spins 1/2, S = sigma / 2, (L, L), 3/4 on the diagonal.

    S_i . S_j = S^z_i S^z_j + (S+_i S-_j + S-_i S+_j) / 2 exchanges the spins i and j where they differ.

    Args:
        samples, wavefunction, permutations: as in `one_body_density_matrix`.

    Raises:
        ValueError: no space of spins 1/2.
    """
    hilbert = wavefunction.hilbert
    if not any(c.name == "2 Sz" and c.values == (-1, 1) for c in hilbert.charges):
        raise ValueError(f"spin correlations need spins of length 1/2; the space is {hilbert}.")

    known, average = _Known(wavefunction, samples), _PairAverage(permutations, samples.weights.device)

    def local(rows: Tensor) -> Tensor:
        n = samples.configurations[rows]
        sz = n.double() - 0.5
        x = sz[:, :, None] * sz[:, None, :]
        row, i, j = (n[:, :, None] != n[:, None, :]).triu(1).nonzero().T
        k = torch.arange(len(row), device=n.device)
        n_prime = n[row]
        n_prime[k, i] ^= 1
        n_prime[k, j] ^= 1
        flip = known.ratios(n_prime, rows[row]).real / 2
        x[row, i, j] += flip
        x[row, j, i] += flip
        x.diagonal(dim1=1, dim2=2).fill_(0.75)
        return average(x)

    return _means(samples, local, _moves_bytes(hilbert.n_sites), MOVES_CPU_BYTES)


# ---- whole states ----------------------------------------------------------------------------------


def fidelity(samples: Samples, hilbert: HilbertSpace, state: np.ndarray | Tensor) -> Expectation:
    """|<psi|phi>|^2 of the sampled state psi with a vector phi in lexicographic order, both normalised; a scalar.

        <psi|phi> = sum |psi(n)|^2 r(n) = <r>,   r(n) = phi(n) / psi(n),   F = |<r>|^2,   error = error of 2 Re(<r>* r).

    r is the same for all n where psi = phi, so that the noise vanishes with 1 - F. With N independent samples |<r>|^2
    exceeds F by (1 - F) / N in the mean, which matters only where F is of that order. Exact for exhaustive samples:
    those of ExhaustiveSampler or `exact_samples`.

    Raises:
        ValueError: the vector does not have the dimension of the sector, or is not normalised.
    """
    phi = _amplitudes(hilbert, state).to(samples.weights.device)[hilbert.rank(samples.configurations)]
    r = phi * torch.polar((-samples.log_modulus).exp(), -samples.phase)
    overlap = samples.weights.to(r.dtype) @ r
    return Expectation(overlap.abs().square(), _real_means(samples, 2 * (overlap.conj() * r).real).error)


@torch.no_grad()
def renyi2_entropy(
    samples: Samples, wavefunction: Wavefunction, sites: Sequence[int], *, n_pairs: int = PAIRS, seed: int = 0
) -> Expectation:
    """S_2 = -ln Tr rho_A^2 of the sites A, a scalar, by the swap of A between two replicas,

        Tr rho_A^2 = < psi(m_A, n_B) psi(n_A, m_B) / (psi(n) psi(m)) >    over independent n, m from |psi|^2.

    Swapped configurations outside the sector contribute 0. For fermions each amplitude gets the sign of moving the
    orbitals of A to the front of the Jordan-Wigner order, so that this is the entropy of the fermionic modes. The noise
    grows as exp(S_2). Exhaustive samples give the exact value from the reduced density matrix itself.
    Hastings et al., Phys. Rev. Lett. 104, 157201 (2010).

    Args:
        samples: independent ones (TreeSampler), or exhaustive.
        wavefunction: amplitudes of configurations that were not sampled.
        sites: A, not empty and not all sites.
        n_pairs: disjoint pairs of samples, at most half the number of samples.
        seed: of the choice of pairs.

    Raises:
        ValueError: impossible sites, samples drawn without replacement, or fewer than 4 samples.
    """
    hilbert = wavefunction.hilbert
    inside = _subsystem(hilbert, sites).to(samples.weights.device)
    if samples.inclusion is not None:
        if bool((samples.inclusion < 1).any()):
            raise ValueError(
                "the replica trick needs pairs of independent samples, but these were drawn without replacement: "
                "use TreeSampler, or ExhaustiveSampler for the exact value."
            )
        return _exact_renyi2(samples, hilbert, inside)
    n_pairs = min(n_pairs, samples.n_samples // 2)
    if n_pairs < 2:
        raise ValueError(
            f"{samples.n_samples} samples in {n_pairs} pairs leave no error bar: give at least 4 samples and 2 pairs."
        )
    a, b = _independent_rows(samples, 2 * n_pairs, seed).view(2, n_pairs)
    n, m = samples.configurations[a], samples.configurations[b]
    n_swapped, m_swapped = torch.where(inside, m, n), torch.where(inside, n, m)
    kept = (hilbert.contains(n_swapped) & hilbert.contains(m_swapped)).nonzero()[:, 0]
    a, b, n, m, n_swapped, m_swapped = (x[kept] for x in (a, b, n, m, n_swapped, m_swapped))
    sign = torch.ones(len(kept), dtype=torch.float64, device=n.device)
    for configurations in (n, m, n_swapped, m_swapped):
        sign = sign * _front_signs(hilbert, configurations, inside)
    known = _Known(wavefunction, samples)
    ratio = sign * known.ratios(n_swapped, a) * known.ratios(m_swapped, b)
    values = torch.zeros(n_pairs, dtype=torch.float64, device=n.device)
    values[kept] = ratio.real
    purity = values.mean()
    return Expectation(-purity.log(), values.std() / n_pairs**0.5 / purity.abs())


def _subsystem(hilbert: HilbertSpace, sites: Sequence[int]) -> Bool[Tensor, " L"]:
    L = hilbert.n_sites
    chosen = {int(site) for site in sites}
    if not 0 < len(chosen) < L or len(chosen) != len(sites) or min(chosen) < 0 or max(chosen) >= L:
        raise ValueError(
            f"sites={list(sites)}: give different sites between 0 and {L - 1}, at least one and not all of them."
        )
    inside = torch.zeros(L, dtype=torch.bool)
    inside[sorted(chosen)] = True
    return inside


def _exact_renyi2(samples: Samples, hilbert: HilbertSpace, inside: Bool[Tensor, " L"]) -> Expectation:
    """-ln Tr (M M+)^2 with the amplitudes as a matrix, psi(n_A, n_B) = M_AB; a block for all conserved charges of A."""
    n = samples.configurations
    amplitudes = torch.polar(samples.weights.sqrt(), samples.phase) * _front_signs(hilbert, n, inside)
    row, column = (distinct(hilbert, torch.where(part, n, 0))[1] for part in (inside, ~inside))
    block = torch.unique(_charges_inside(hilbert, n, inside), return_inverse=True)[1]
    purity = amplitudes.new_zeros((), dtype=torch.float64)
    for members in block.argsort(stable=True).split(block.bincount().tolist()):
        i, j = (torch.unique(x[members], return_inverse=True)[1] for x in (row, column))
        matrix = amplitudes.new_zeros((int(i.max()) + 1, int(j.max()) + 1))
        matrix[i, j] = amplitudes[members]
        if matrix.shape[0] > matrix.shape[1]:
            matrix = matrix.T  # the same for both parts
        purity += (matrix @ matrix.mH).abs().square().sum()
    entropy = -purity.log()
    return Expectation(entropy, torch.zeros_like(entropy))


def _charges_inside(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"], inside: Bool[Tensor, " L"]) -> Int64[Tensor, " B"]:
    """A number for all conserved charges of the part A of configurations together."""
    number = torch.zeros(len(n), dtype=torch.int64, device=n.device)
    for charge in hilbert.charges:
        if charge.target is not None:
            values = torch.tensor(charge.values, device=n.device)[n[:, inside].long()].sum(1)
            values = values if charge.modulus is None else values % charge.modulus
            values = values - values.min()
            number = number * (values.max() + 1) + values
    return number


def _front_signs(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"], inside: Bool[Tensor, " L"]) -> Float64[Tensor, " B"]:
    """Fermionic sign of moving the occupied orbitals of A in front of all others; 1 without fermions."""
    if any(charge.name.startswith("electrons") for charge in hilbert.charges):
        raise ValueError(f"the entropy of fermions needs fermions or spinful_fermions; the space is {hilbert}.")
    if not (_is_electrons(hilbert) or _is_spinless(hilbert)):
        return torch.ones(len(n), dtype=torch.float64, device=n.device)
    kinds = _species(hilbert)
    occupied = torch.cat([kind.occupation.to(n.device)[n.long()] for kind in kinds], dim=1)  # Jordan-Wigner order
    in_a = inside.double().repeat(len(kinds))
    b_before = (occupied * (1 - in_a)).cumsum(1)
    return 1 - 2 * ((occupied * in_a * b_before).sum(1) % 2)


def _independent_rows(samples: Samples, number: int, seed: int) -> Int64[Tensor, " M"]:
    """Rows of `number` different ones among the independent samples, in random order."""
    device, total = samples.weights.device, samples.n_samples
    generator = torch.Generator(device).manual_seed(seed)
    if total <= 16 * number:
        chosen = torch.randperm(total, generator=generator, device=device)[:number]
    else:
        chosen = torch.empty(0, dtype=torch.int64, device=device)
        while len(chosen) < number:  # distinct at once but for few draws
            chosen = torch.randint(total, (2 * number,), generator=generator, device=device).unique()
        chosen = chosen[torch.randperm(len(chosen), generator=generator, device=device)[:number]]
    if samples.counts is None:
        return chosen
    return torch.searchsorted(samples.counts.cumsum(0), chosen, right=True)
