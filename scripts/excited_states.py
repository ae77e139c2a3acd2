"""The lowest states of a disordered Bose-Hubbard chain, one run each, orthogonal to those before.

    python scripts/excited_states.py                                two states of a chain of 6 sites
    python scripts/excited_states.py --n-states 3 --disorder 2      other numbers
    python scripts/excited_states.py --help                         every option

Each state has an archive of its own, results/excited_states-..-stateK-..h5; repeated commands continue or show them.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nqs import Result
from nqs.cli.options import CommonOptions, Options, command_line
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -J sum_<ij> (b+_i b_j + h.c.) + U/2 sum_i n_i (n_i - 1) + sum_i epsilon_i n_i, epsilon_i random."""

    L: int = 6  # number of sites
    n_particles: int = 4
    U: float = 4.0  # on-site interaction
    disorder: float = 1.0  # epsilon_i is uniform in -disorder .. disorder
    disorder_seed: int = 0
    n_states: int = 2  # from the ground state up

    options: CommonOptions = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.n_states < 1:
            raise ValueError(f"n_states={self.n_states}: at least the ground state must be asked for.")


def main(config: Config) -> Result:
    rng = np.random.default_rng(config.disorder_seed)
    potential = tuple(rng.uniform(-config.disorder, config.disorder, config.L).tolist())
    hamiltonian = BoseHubbard(chain(config.L, periodic=False), config.n_particles, U=config.U, potential=potential)
    name = f"excited_states-{config.L}-N{config.n_particles}-U{config.U:g}"
    known: list[Path] = []
    for k in range(config.n_states):
        archive = config.options.archive
        options = replace(config.options, archive=archive and archive.with_stem(f"{archive.stem}-{k}"))
        result = options.ground_state(hamiltonian, name=f"{name}-state{k}", orthogonal_to=known)
        assert result.archive is not None
        known.append(result.archive)
        if result.steps_left:  # at the time limit: the states above need the final one
            break
    return result


if __name__ == "__main__":
    command_line(main, Config, __doc__)
