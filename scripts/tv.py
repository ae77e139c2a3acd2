"""Ground state of the t-V model of spinless fermions by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/tv.py                                            a ring of 10 sites at half filling, V/t = 1
    python scripts/tv.py --V 4 --n-particles 3                      other physics
    python scripts/tv.py --shape 4 4 --boundary open                a square lattice
    python scripts/tv.py --help                                     every option

Signs: none where all off-diagonal elements are negative (open chains, rings with an odd number of fermions); elsewhere
those of the Hartree-Fock determinant, with a phase head that learns the rest.

Repeat a command to see its result again; interrupt it and repeat it to continue where it stopped.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from nqs import Result, recipes
from nqs.driver import CommonOptions, Options, command_line, diagonalise, solve, with_mean_field
from nqs.exact import ExactGroundState
from nqs.hamiltonians import TV, staggered_potential
from nqs.lattice import hypercubic
from nqs.models import TransformerConfig
from nqs.protocols import WavefunctionConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -t sum_<ij> (c+_i c_j + h.c.) + V sum_<ij> n_i n_j + sum_i epsilon_i n_i."""

    shape: tuple[int, ...] = (10,)  # sites along each direction: 10, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    twist: tuple[float, ...] | None = None  # boundary phase of each direction, radians
    n_particles: int | None = None  # number of fermions; None: half the sites
    V: float = 1.0  # nearest-neighbour interaction
    t: float = 1.0  # hopping
    staggered: float = 0.0  # site energy +staggered on one sublattice, -staggered on the other

    model: TransformerConfig = field(default_factory=recipes.transformer)
    reference: Literal["auto", "none"] = "auto"  # signs as above; none: a phase head learns all of them
    options: CommonOptions = field(default_factory=Options)


def wavefunction(config: Config, hamiltonian: TV, ground_state: ExactGroundState | None) -> WavefunctionConfig:
    """The network with what is known of the signs."""
    if config.model.phase == "zero" and not hamiltonian.is_stoquastic:
        raise ValueError("no rule gives the exact signs of this ground state: add --model.phase learned.")
    if config.reference == "none":
        return config.model
    if hamiltonian.is_stoquastic:
        return replace(config.model, phase="zero")
    return with_mean_field(config.model, hamiltonian, ground_state)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = TV(
        lattice,
        lattice.n_sites // 2 if config.n_particles is None else config.n_particles,
        V=config.V,
        t=config.t,
        potential=staggered_potential(lattice, config.staggered) if config.staggered else None,
        twist=config.twist,
    )
    ground_state = diagonalise(hamiltonian, config.options)

    model = wavefunction(config, hamiltonian, ground_state)
    sites = "x".join(map(str, config.shape))
    name = f"tv-{sites}-N{hamiltonian.n_particles}-V{config.V:g}"
    return solve(hamiltonian, model, config.options, name=name, ground_state=ground_state)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
