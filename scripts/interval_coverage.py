"""Coverage of error bars: how often the 95 % interval of a sampled energy or observable holds the exact value.

    python scripts/interval_coverage.py                                 six states, 2,000 draws of each sampler
    python scripts/interval_coverage.py --draws 200 --states flat-spins   fewer draws, some states
    python scripts/interval_coverage.py --samplers Metropolis             schemes whose name begins so

Each state is a table of amplitudes, so that its expectation values are exact sums, and is sampled as any autoregressive
state, or without its norm by Markov chains. The peaked ones are ground states with noise of 20 % in every amplitude, so
that the local energies of rare configurations are far from the mean. The intervals are value +- 1.96 error. For the
energy and the observables (all elements together) the table gives

    covered    fraction of the determined intervals that hold the exact value, in percent
    of sd      median of the quoted error over the standard deviation of the values
    nan        fraction of errors that are quoted as not determinable, in percent

Elements whose values do not scatter, as the number of particles, are left out.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from nqs import exact
from nqs.error_bars import NORMAL
from nqs.estimators.energy import estimate_energy
from nqs.estimators.local_energy import local_energies
from nqs.estimators.unseen import with_unseen
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain
from nqs.observables.densities import correlations, densities
from nqs.observables.one_body import one_body_density_matrix
from nqs.observables.spins import spin_correlations
from nqs.observables.state_vector import exact_samples
from nqs.protocols import AutoregressiveWavefunction, Conditionals, Hamiltonian, LogPsi, SamplerConfig, Wavefunction
from nqs.samplers import GumbelSampler, ImportanceSampler, MetropolisSampler, Proposal, TreeSampler
from nqs.samples import Samples


class Prefixes(NamedTuple):
    """State of a table while configurations grow: the site, and the numbers of the prefixes."""

    site: int
    rows: Tensor

    def select(self, indices: Tensor) -> "Prefixes":
        return Prefixes(self.site, self.rows[indices])

    def branch(self, indices: Tensor) -> "Prefixes":
        return self.select(indices)


class AutoregressiveTable(AutoregressiveWavefunction[Prefixes]):
    """A state vector in lexicographic order as an autoregressive wavefunction, with a table of conditionals."""

    has_phase = True
    shares_prefixes = False

    def __init__(self, hilbert: HilbertSpace, psi: np.ndarray) -> None:
        super().__init__()
        self.hilbert = hilbert
        state = torch.as_tensor(psi).to(torch.complex128)
        state = state / torch.linalg.vector_norm(state)
        self.log_modulus, self.angle = state.abs().log(), state.angle()
        n, p, d = hilbert.configurations(), state.abs().square(), hilbert.local_dim
        # For every site, (prefixes, d): number of the longer prefix, and conditional.
        self.longer: list[Tensor] = []
        self.log_p: list[Tensor] = []
        prefix = torch.zeros(len(n), dtype=torch.int64)
        for site in range(hilbert.n_sites):
            longer, inverse = torch.unique(prefix * d + n[:, site], return_inverse=True)
            weight = torch.zeros(len(longer), dtype=torch.float64).index_add_(0, inverse, p)
            size = int(prefix.max()) + 1
            children = torch.zeros(size * d, dtype=torch.int64)
            children[longer] = torch.arange(len(longer))
            table = torch.zeros(size * d, dtype=torch.float64)
            table[longer] = weight
            table = table.view(size, d)
            self.longer.append(children.view(size, d))
            self.log_p.append((table / table.sum(1, keepdim=True)).log())
            prefix = inverse

    def log_psi(self, n: Tensor) -> LogPsi:
        index = self.hilbert.rank(n)
        return LogPsi(self.log_modulus[index], self.angle[index])

    def start(self, batch: int) -> Prefixes:
        return Prefixes(0, torch.zeros(batch, dtype=torch.int64))

    def step(self, tokens: Tensor | None, state: Prefixes) -> tuple[Conditionals, Prefixes]:
        rows = state.rows if tokens is None else self.longer[state.site - 1][state.rows, tokens.long()]
        log_p = self.log_p[state.site][rows]
        return Conditionals(log_p, torch.zeros_like(log_p)), Prefixes(state.site + 1, rows)

    def conditionals(self, n: Tensor) -> Conditionals:
        state, found = self.start(len(n)), []
        for site in range(n.shape[1]):
            conditionals, state = self.step(n[:, site - 1] if site else None, state)
            found.append(conditionals.log_p)
        log_p = torch.stack(found, 1)
        return Conditionals(log_p, torch.zeros_like(log_p))

    def reference_phase(self, n: Tensor) -> Tensor:
        return self.angle[self.hilbert.rank(n)]

    @property
    def bytes_per_configuration(self) -> int:
        return 64 * self.hilbert.n_sites


def noisy_ground_state(hamiltonian: Hamiltonian, noise: float) -> np.ndarray:
    """Exact ground state, every amplitude times exp(noise) with normal numbers."""
    psi = exact.ground_state(hamiltonian).state
    return psi * np.exp(noise * np.random.default_rng(0).standard_normal(len(psi)))


def flat(hamiltonian: Hamiltonian, noise: float) -> np.ndarray:
    """Amplitudes exp(noise) with normal numbers."""
    return np.exp(noise * np.random.default_rng(0).standard_normal(hamiltonian.hilbert.dimension))


@dataclass(frozen=True)
class State:
    """A named state of the table."""

    hamiltonian: Hamiltonian
    amplitudes: Callable[[Hamiltonian, float], np.ndarray]
    noise: float = 0.2


STATES = {
    "flat-spins": State(Heisenberg(chain(10)), flat),
    "flat-bosons": State(BoseHubbard(chain(6), 6, U=4.0), flat),
    "bose-hubbard-U4": State(BoseHubbard(chain(6), 6, U=4.0), noisy_ground_state),
    "bose-hubbard-U40": State(BoseHubbard(chain(6), 6, U=40.0), noisy_ground_state),
    "bose-hubbard-U400": State(BoseHubbard(chain(6), 6, U=400.0), noisy_ground_state),
    "fermi-hubbard-U8": State(FermiHubbard(chain(6), 3, 3, U=8.0), noisy_ground_state),
}
# Those of a state whose norm is not known end with "unknown norm".
SAMPLERS: dict[str, SamplerConfig] = {
    "tree, 300": TreeSampler(n_samples=300),
    "tree, 3,000": TreeSampler(n_samples=3_000),
    "Gumbel, 30": GumbelSampler(n_distinct=30),
    "Metropolis, 3,000": MetropolisSampler(n_samples=3_000, n_chains=300, n_discarded=16),
    "Metropolis, 3,000, unknown norm": MetropolisSampler(n_samples=3_000, n_chains=300, n_discarded=16),
    "Metropolis, slow, unknown norm": MetropolisSampler(n_samples=3_000, n_chains=100, n_steps=2, n_discarded=16),
    "Metropolis, power 1/2, 3,000, unknown norm": MetropolisSampler(
        n_samples=3_000, n_chains=300, n_discarded=16, powers=(0.5,)
    ),
    "Metropolis, power 1/2, slow, unknown norm": MetropolisSampler(
        n_samples=3_000, n_chains=100, n_steps=2, n_discarded=16, powers=(0.5,)
    ),
    "importance, 3,000, unknown norm": ImportanceSampler(n_samples=3_000, n_batches=8, proposal=Proposal(power=0.5)),
}


def measured(hamiltonian: Hamiltonian, psi: Wavefunction, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Energy and elements of the observables, and their errors."""
    hilbert = psi.hilbert
    complete = with_unseen(hamiltonian, psi, samples)
    values = local_energies(hamiltonian, psi, complete).values
    local = values[: samples.n_distinct]
    estimate = estimate_energy(samples, local, energy_infinity=0.0, complete=(complete, values))
    charge = hilbert.charges[0].name
    found = [
        densities(complete, hilbert, charge),
        correlations(complete, hilbert, charge, connected=True),
        spin_correlations(samples, psi) if hilbert.of_kind("spin") else one_body_density_matrix(samples, psi),
    ]
    value = [x.value.real.flatten() for x in found]
    error = [x.error.flatten() for x in found]
    return (
        np.concatenate([[estimate.energy], *value]),
        np.concatenate([[estimate.error], *error]),
    )


class Row(NamedTuple):
    """Coverage, ratio of error and standard deviation, fraction without an error; of the energy and the observables."""

    covered: tuple[float, ...]
    ratio: tuple[float, ...]
    undetermined: tuple[float, ...]


def coverage(state: State, sampler: SamplerConfig, draws: int, seed: int = 0, *, normalised: bool = True) -> Row:
    """One row of the table."""
    hamiltonian = state.hamiltonian
    psi = AutoregressiveTable(hamiltonian.hilbert, state.amplitudes(hamiltonian, state.noise))
    psi.normalised = normalised
    amplitudes = torch.polar(psi.log_modulus.exp(), psi.angle)
    expected = measured(hamiltonian, psi, exact_samples(hamiltonian.hilbert, amplitudes))[0]
    generator, sampling = torch.Generator().manual_seed(seed), sampler.build(psi)
    found = [measured(hamiltonian, psi, sampling.sample(generator)) for _ in range(draws)]
    value, error = np.array([x[0] for x in found]), np.array([x[1] for x in found])  # (draws, elements)
    scatters = value.std(0) > 1e-12 * np.abs(expected).max()
    rounding = 1e-12 * np.abs(expected)
    outside = np.abs(value - expected) > NORMAL * error + rounding  # false for nan
    known = np.isfinite(error)
    parts = np.arange(value.shape[1]) == 0, (np.arange(value.shape[1]) > 0) & scatters
    covered, ratio, undetermined = zip(*(of_part(value, error, outside, known, part) for part in parts), strict=True)
    return Row(covered, ratio, undetermined)


def of_part(value: np.ndarray, error: np.ndarray, outside: np.ndarray, known: np.ndarray, part: np.ndarray) -> tuple:
    """Coverage, ratio and fraction without an error of some of the elements."""
    value, error, outside, known = (x[:, part] for x in (value, error, outside, known))
    ratio = np.median(np.nanmedian(error, 0) / value.std(0))
    return 1 - outside.sum() / max(known.sum(), 1), float(ratio), 1 - known.mean()


@dataclass(frozen=True, kw_only=True)
class Config:
    draws: int = 2_000  # of each sampler
    states: tuple[str, ...] = tuple(STATES)
    samplers: str = ""  # beginning of the names of those that are used
    seed: int = 0


def main(config: Config) -> int:
    unknown = [name for name in config.states if name not in STATES]
    if unknown:
        raise SystemExit(f"error: no state {unknown[0]!r}: choose among {', '.join(STATES)}.")
    torch.set_num_threads(1)
    lowest = 1.0
    print("| state | sampler | energy: covered, of sd, nan | observables: covered, of sd, nan |")
    print("|---|---|---|---|")
    for name in config.states:
        for label, sampler in SAMPLERS.items():
            if not label.startswith(config.samplers):
                continue
            normalised = not label.endswith("unknown norm")
            row = coverage(STATES[name], sampler, config.draws, config.seed, normalised=normalised)
            cells = [f"{100 * c:.1f}, {r:.2f}, {100 * u:.1f}" for c, r, u in zip(*row, strict=True)]
            print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)
            lowest = min(lowest, *row.covered)
    print(f"lowest coverage: {100 * lowest:.1f} %")
    return int(lowest < 0.93)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
