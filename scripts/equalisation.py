"""Four ways to hold the particle number of an autoregressive state, on chains that can be enumerated.

    python scripts/equalisation.py                                  both chains of six sites, a table and a figure
    python scripts/equalisation.py --problems hubbard --schemes masked random --seconds 5
    python scripts/equalisation.py --help                           every option

    masked      conditionals that are zero where a prefix cannot reach the sector: the transformers of nqs
    penalty     a network without constraint on all particle numbers; its loss is <H> + penalty <sum_c (N_c - N0_c)^2>,
                its energy that of the draws with N = N0
    random      the same network without penalty; particles are removed from, or added to, random sites until N = N0
                (nqs.scripts.equalisers), and the results are taken for draws of |psi|^2
    guided      the same, each site drawn with p(n_s +- 1 | n_1 .. n_{s-1}) / p(n_s | n_1 .. n_{s-1}) of the network

The chains are open with one boson per site (at most three on one), or one electron per site, so that a positive
wavefunction is exact. First a fixed state is sampled: a network after a few steps with the penalty, and the same
parameters with masks. Everything that it is compared with is a sum over the sector, with |psi|^2 normalised there:

    in sector   fraction of the draws of the network with N = N0
    TV          total variation distance of the samples to |psi|^2; in brackets the one expected of independent draws
    chi^2       over the number of degrees of freedom
    bias        mean of the local energies of the samples - <H>
    variance    of the local energies of the samples; in brackets <H^2> - <H>^2
    gradient    cosine and ratio of norms of 2 <(E_loc - <E_loc>) d log|psi|> over the samples, with which the scheme
                would take a step (of the penalty: over all draws, with the penalty in E_loc), and of d<H>

Then every scheme optimises a network from random parameters with stochastic reconfiguration, in equal CPU time. `E`
is <H> in the sector for the final state, `quoted` the mean over its samples, both as relative deviations from the
exact energy: the means over the trials, and their standard deviations; `N = N0` is the fraction of the draws of the
final network in the sector.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from nqs import exact, recipes
from nqs.cli.options import command_line
from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain
from nqs.models import TransformerConfig
from nqs.protocols import Connected, Hamiltonian
from nqs.report.files import refuse_foreign, write_figure
from nqs.samplers import TreeSampler
from nqs.samples import Samples, distinct
from nqs.scripts.equalisers import equalised, excess

Name = Literal["masked", "penalty", "random", "guided"]
ProblemName = Literal["bose-hubbard", "hubbard"]
SCHEMES: tuple[Name, ...] = ("masked", "penalty", "random", "guided")
MOST_BOSONS = 3  # on a site
RECORDED = 10  # steps between two energies of the figure
FEWEST = 5  # expected draws of a cell of the chi-square test

# ------------------------------------------------------------------------------------------------------------- schemes


@dataclass(frozen=True)
class Penalised:
    """H + strength sum_c (N_c - N0_c)^2 on all particle numbers."""

    hamiltonian: Hamiltonian
    sector: HilbertSpace
    strength: float

    @property
    def hilbert(self) -> HilbertSpace:
        return self.hamiltonian.hilbert

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        return self.hamiltonian.diagonal(n) + self.strength * excess(self.sector, n).square().sum(1)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        return self.hamiltonian.connected(n)


class Problem:
    """A chain in its sector and on all particle numbers.

    Attributes:
        n: the sector, in lexicographic order.
        matrix: H in the sector.
        energy: of the exact ground state.
    """

    def __init__(self, name: ProblemName, L: int, U: float) -> None:
        lattice = chain(L, periodic=False)
        self.name, self.L = name, L
        self.inside: Hamiltonian
        self.free: Hamiltonian
        if name == "bose-hubbard":
            n_max = min(MOST_BOSONS, L)
            self.inside = BoseHubbard(lattice, L, U=U, n_max=n_max)
            self.free = BoseHubbard(lattice, None, U=U, n_max=n_max)
        else:
            self.inside = FermiHubbard(lattice, L // 2, L - L // 2, U=U)
            self.free = FermiHubbard(lattice, None, None, U=U)
        self.sector = self.inside.hilbert
        self.n = self.sector.configurations()
        self.matrix = exact.sparse_matrix(self.inside)
        self.energy = exact.ground_state(self.inside).energy


class Scheme:
    """One way to hold the particle number, with its network.

    Args:
        width: of the network.
        penalty: strength of the scheme "penalty".
        seed: of the initial parameters.
    """

    def __init__(self, name: Name, problem: Problem, *, width: int, penalty: float, seed: int = 0) -> None:
        self.name, self.problem = name, problem
        self.hamiltonian = problem.inside if name == "masked" else problem.free
        if name == "penalty":
            self.hamiltonian = Penalised(problem.free, problem.sector, penalty)
        network = TransformerConfig(width=width, layers=2, heads=2, mlp_ratio=2, phase="zero", seed=seed)
        self.psi = network.build(self.hamiltonian.hilbert)

    def network(self, number: int, generator: torch.Generator) -> Samples:
        """Draws of the network, before any particle is added or removed."""
        return TreeSampler(n_samples=number).build(self.psi).sample(generator)

    @torch.no_grad()
    def draw(self, number: int, generator: torch.Generator) -> Samples:
        """What the scheme takes for draws of |psi|^2."""
        samples = self.network(number, generator)
        if self.name in ("masked", "penalty"):
            return samples
        assert samples.counts is not None
        n = samples.configurations.repeat_interleave(samples.counts, 0)
        n = equalised(n, self.problem.sector, generator, self.psi if self.name == "guided" else None)
        first, classes = distinct(self.problem.sector, n)
        counts = torch.bincount(classes)
        log_modulus, phase = self.psi.log_psi(n[first])
        return Samples(
            configurations=n[first],
            weights=counts.double() / number,
            log_modulus=log_modulus,
            phase=phase,
            counts=counts,
            normalised=False,
        )

    def in_sector(self, samples: Samples) -> tuple[Float64[Tensor, " D"], int]:
        """Fraction of the samples in the sector on each of its configurations, and their number."""
        assert samples.counts is not None
        inside = self.problem.sector.contains(samples.configurations)
        rank = self.problem.sector.rank(samples.configurations[inside])
        counts = samples.counts[inside]
        number = int(counts.sum())
        q = torch.zeros(len(self.problem.n), dtype=torch.float64)
        return q.index_add_(0, rank, counts.double()) / max(number, 1), number

    @torch.no_grad()
    def claimed(self) -> tuple[Float64[Tensor, " D"], Float64[Tensor, " D"]]:
        """|psi|^2, normalised in the sector, and the local energies on all of it."""
        log_modulus = self.psi.log_psi(self.problem.n).log_modulus
        psi = (log_modulus - log_modulus.max()).exp()
        local = torch.from_numpy(self.problem.matrix @ psi.numpy()) / psi
        return (2 * log_modulus).softmax(0), local

    def energy(self) -> float:
        """<H> in the sector."""
        p, local = self.claimed()
        return (p @ local).item()

    def gradient(self, n: UInt8[Tensor, "B L"], weights: Float64[Tensor, " B"], local: Float64[Tensor, " B"]) -> Tensor:
        """2 sum w (E_loc - <E_loc>) d log|psi| over all parameters."""
        loss = 2 * (weights * (local - weights @ local)) @ self.psi.log_psi(n).log_modulus
        parts = torch.autograd.grad(loss, list(self.psi.parameters()))
        return torch.cat([part.flatten() for part in parts])


# -------------------------------------------------------------------------------------------------------- measurements


class Fixed(NamedTuple):
    """A fixed state and its samples; pairs are the measured value and the one to compare with."""

    in_sector: float  # fraction of the draws of the network
    variation: tuple[float, float]
    chi_square: float  # over the degrees of freedom
    bias: tuple[float, float]  # and its standard error
    variance: tuple[float, float]
    gradient: tuple[float, float]  # cosine, ratio of norms
    q: Tensor  # sampled distribution in the sector
    p: Tensor  # |psi|^2 there


def fixed_state(scheme: Scheme, draws: int, seed: int) -> Fixed:
    """Compare samples of the scheme with sums over the sector."""
    generator = torch.Generator().manual_seed(seed)
    samples = scheme.draw(draws, generator)
    q, number = scheme.in_sector(samples)
    p, local = scheme.claimed()
    exact_mean, mean = p @ local, q @ local
    exact_variance, variance = p @ (local - exact_mean).square(), q @ (local - mean).square()
    expected_gradient = scheme.gradient(scheme.problem.n, p, local)
    sampled_local = local_energies(scheme.hamiltonian, scheme.psi, samples).values.real
    gradient = scheme.gradient(samples.configurations, samples.weights, sampled_local)
    norms = gradient.norm(), expected_gradient.norm()
    return Fixed(
        in_sector=scheme.in_sector(scheme.network(draws, generator))[1] / draws,
        variation=((q - p).abs().sum().item() / 2, (p * (1 - p) / (2 * torch.pi * number)).sqrt().sum().item()),
        chi_square=chi_square(q * number, p * number),
        bias=((mean - exact_mean).item(), (variance / number).sqrt().item()),
        variance=(variance.item(), exact_variance.item()),
        gradient=((gradient @ expected_gradient / norms[0] / norms[1]).item(), (norms[0] / norms[1]).item()),
        q=q,
        p=p,
    )


def chi_square(found: Float64[Tensor, " D"], expected: Float64[Tensor, " D"]) -> float:
    """chi^2 over the degrees of freedom; cells with few expected draws are one cell."""
    rare = expected < FEWEST
    found, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (found, expected))
    cells = expected > 0
    return (((found - expected).square() / expected)[cells].sum() / max(int(cells.sum()) - 1, 1)).item()


class Run(NamedTuple):
    """An optimisation; energies relative to the exact one, (E - E0) / |E0|."""

    seconds: list[float]
    energies: list[float]  # <H> in the sector
    quoted: float  # mean of the samples of the final state; nan without samples in the sector
    in_sector: float  # fraction of the draws of its network
    steps: int


def optimise(
    scheme: Scheme, samples: int, generator: torch.Generator, *, seconds: float = 0.0, steps: int = 0, final: int = 0
) -> Run:
    """Stochastic reconfiguration for so many steps, or so much CPU time.

    Args:
        samples: of a step.
        final: samples of the quoted energy; 0: as in a step.
    """
    problem, scale = scheme.problem, energy_scale(scheme.problem.inside)
    optimiser = recipes.optimiser(exact=False).build(scheme.psi)

    def relative(energy: float) -> float:
        return (energy - problem.energy) / abs(problem.energy)

    spent, step = 0.0, 0
    times, energies = [0.0], [relative(scheme.energy())]
    while step < steps or spent < seconds:
        begin = time.process_time()
        drawn = scheme.draw(samples, generator)
        local = local_energies(scheme.hamiltonian, scheme.psi, drawn).in_units_of(scale)
        optimiser.step(drawn, local, step / steps if steps else spent / seconds)
        spent, step = spent + time.process_time() - begin, step + 1
        if step % RECORDED == 0:
            times.append(spent)
            energies.append(relative(scheme.energy()))
    times.append(spent)
    energies.append(relative(scheme.energy()))
    number = final or samples
    q, inside = scheme.in_sector(scheme.draw(number, generator))
    quoted = relative((q @ scheme.claimed()[1]).item()) if inside else math.nan
    return Run(times, energies, quoted, scheme.in_sector(scheme.network(number, generator))[1] / number, step)


# ---------------------------------------------------------------------------------------------------- table and figure


@dataclass(frozen=True, kw_only=True)
class Config:
    """Problems, sizes and times."""

    problems: tuple[ProblemName, ...] = ("bose-hubbard", "hubbard")
    schemes: tuple[Name, ...] = SCHEMES
    L: int = 6  # sites of the open chains, with one particle per site
    U: float = 4.0
    penalty: float = 4.0  # of (N - N0)^2, in units of the hopping
    draws: int = 200_000  # of the fixed state
    fixed_steps: int = 10  # steps with the penalty that make the fixed state
    seconds: float = 15.0  # CPU time of every optimisation
    samples: int = 2_000  # of a step
    trials: int = 3  # optimisations of each scheme, from different random parameters
    width: int = 16  # of the networks, of two layers
    seed: int = 0
    plot: Path = Path("results/equalisation.png")

    def check(self) -> None:
        """
        Raises:
            ValueError: an option that is out of range, or a figure that cannot be written.
        """
        for name, least in (("L", 2), ("draws", 1), ("fixed_steps", 0), ("samples", 2), ("trials", 1), ("width", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give at least {least}.")
        for name in ("penalty", "seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number.")
        if self.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise ValueError(f"plot={self.plot}: its name must end with .png, .pdf or .svg.")
        refuse_foreign(self.plot)


def fixed_states(problem: Problem, config: Config) -> dict[Name, Fixed]:
    """All schemes at the same parameters: those of a network after a few steps with the penalty."""
    names = dict.fromkeys((*config.schemes, "penalty"))
    schemes = {name: Scheme(name, problem, width=config.width, penalty=config.penalty) for name in names}
    start = schemes["penalty"]
    generator = torch.Generator().manual_seed(config.seed)
    optimise(start, config.samples, generator, steps=config.fixed_steps)
    for scheme in schemes.values():
        scheme.psi.load_state_dict(start.psi.state_dict())
    return {name: fixed_state(schemes[name], config.draws, config.seed) for name in config.schemes}


def runs(name: Name, problem: Problem, config: Config) -> list[Run]:
    """All trials of one scheme."""
    found = []
    for trial in range(config.seed, config.seed + config.trials):
        scheme = Scheme(name, problem, width=config.width, penalty=config.penalty, seed=trial)
        generator = torch.Generator().manual_seed(trial)
        found.append(optimise(scheme, config.samples, generator, seconds=config.seconds, final=config.draws))
    return found


def row(problem: Problem, name: Name, fixed: Fixed, found: list[Run]) -> str:
    final, quoted = (np.array(x) for x in zip(*((run.energies[-1], run.quoted) for run in found), strict=True))
    cells = [
        problem.name,
        name,
        f"{fixed.in_sector:.3f}",
        f"{fixed.variation[0]:.4f} ({fixed.variation[1]:.4f})",
        f"{fixed.chi_square:,.1f}",
        f"{fixed.bias[0]:+.4f} ± {fixed.bias[1]:.4f}",
        f"{fixed.variance[0]:.3f} ({fixed.variance[1]:.3f})",
        f"{fixed.gradient[0]:.4f}, {fixed.gradient[1]:.2f}",
        f"{final.mean():.1e} ± {final.std():.0e}",
        f"{quoted.mean():+.1e} ± {quoted.std():.0e}",
        f"{np.mean([run.in_sector for run in found]):.3f}",
        f"{np.mean([run.steps for run in found]):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    *("problem", "scheme", "in sector", "TV", "chi^2", "bias", "variance", "gradient"),
    *("E", "quoted", "N = N0", "steps"),
)
HEAD = f"| {' | '.join(COLUMNS)} |"


def draw(found: list[tuple[Problem, dict[Name, Fixed], dict[Name, list[Run]]]], path: Path) -> None:
    """Sampled weight over |psi|^2 of the fixed state, and the energies of the optimisations."""
    figure = Figure(figsize=(10, 3.6 * len(found)), layout="constrained")
    for line, (problem, fixed, optimised) in enumerate(found):
        left = figure.add_subplot(len(found), 2, 2 * line + 1)
        right = figure.add_subplot(len(found), 2, 2 * line + 2)
        for colour, name in zip(("C0", "C2", "C3", "C1"), SCHEMES, strict=True):
            if name not in fixed:
                continue
            p, q = fixed[name].p, fixed[name].q
            left.loglog(p[q > 0], (q / p)[q > 0], ".", color=colour, label=name, markersize=4)
            for i, run in enumerate(optimised[name]):
                label = name if i == 0 else None
                right.semilogy(run.seconds, run.energies, color=colour, label=label, linewidth=1)
                right.semilogy(run.seconds[-1], abs(run.quoted), "x", color=colour)
        left.axhline(1, color="black", linewidth=0.5)
        left.set_title(f"{problem.name}, fixed state")
        left.set_xlabel("|psi|² in the sector")
        left.set_ylabel("sampled fraction / |psi|²")
        right.set_title("optimisation; crosses: |quoted - exact|")
        right.set_xlabel("CPU time / s")
        right.set_ylabel("(E - E0) / |E0|")
        left.legend()
        right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)


def main(config: Config) -> None:
    config.check()
    torch.set_num_threads(1)
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
    found = []
    for name in config.problems:
        problem = Problem(name, config.L, config.U)
        fixed, optimised = fixed_states(problem, config), {}
        for scheme in config.schemes:
            optimised[scheme] = runs(scheme, problem, config)
            print(row(problem, scheme, fixed[scheme], optimised[scheme]), flush=True)
        found.append((problem, fixed, optimised))
    draw(found, config.plot)
    print(f"figure {config.plot}")


if __name__ == "__main__":
    command_line(main, Config, __doc__)
