"""Standard observables of a model, measured at the end of a run, by name.

Archives keep each under `observables/NAME` with its error bar under `NAME_error`, and where the exact state is
known, unique and small its value under `NAME_exact`:

    local_state_probabilities         of every site, (L, d), without an error
    density_CHARGE                    <q_i>, (L,), for every charge (particles, up electrons, 2 Sz, ..)
    correlations_CHARGE               <q_i q_j> - <q_i><q_j>, (L, L)
    structure_factor_CHARGE           of these connected correlations at `wave_vectors`, (K,); periodic lattices
    one_body_density_matrix           <a+_i a_j>, (L, L), complex, with the signs of fermions; both spins together
    momentum_distribution             <n_k> at `particle_wave_vectors`, (K,); periodic lattices, not twisted
    condensate_fraction               of bosons
    double_occupancy                  <n_up n_down>, (L,), of electrons
    spin_correlations                 <S_i . S_j>, (L, L), of localised spins
    total_spin_squared                <S^2>, of electrons with the same orbitals for both spins
    natural_occupations               eigenvalues of the one-body density matrix, (L,), of electrons in orbitals
    dipole_moment                     (3,), e bohr, and mulliken_charges, lowdin_charges, (atoms,), of molecules with
                                      known orbitals
    renyi2_entropy                    of the first half of the sites
    fidelity                          sum_k |<psi|k>|^2 over the states of the exact ground level, |<psi|exact>|^2

with `distances`, (L, L), of the lattice. Besides the charges there are the numbers of each species, and of electrons
`particles` and `Sz`. Blanks are underscores. Where the space states no species, only densities and correlations of its
charges and the fidelity are measured.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from nqs.estimators.unseen import with_unseen
from nqs.exact.diagonalisation import ExactGroundState
from nqs.lattice.lattice import Lattice
from nqs.observables.densities import correlations, densities, double_occupancy, local_state_probabilities
from nqs.observables.entropy import renyi2_entropy
from nqs.observables.expectation import Expectation
from nqs.observables.momenta import allowed_momenta, structure_factor
from nqs.observables.one_body import (
    condensate_fraction,
    natural_occupations,
    one_body,
    one_body_density_matrix,
    one_body_quantity,
)
from nqs.observables.species import localised_spins, mobile, quantities, up_and_down
from nqs.observables.spins import spin_correlations
from nqs.observables.state_vector import StateVector, exact_samples, fidelity
from nqs.observables.total_spin import total_spin_squared
from nqs.protocols import (
    AutoregressiveWavefunction,
    Hamiltonian,
    SamplerConfig,
    Wavefunction,
    has_boundary_phases,
    has_total_spin,
    lattice_of,
    one_electron_of,
)
from nqs.samples import Samples, fewer

# Budget of connected configurations for off-diagonal observables: seconds on the device.
MOVES = {"cpu": 2**20, "cuda": 2**26}


def measure(
    samples: Samples,
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    *,
    few: Samples | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
    exact: ExactGroundState | None = None,
) -> dict[str, Expectation]:
    """All observables of the list above that exist for the space, the lattice and the samples.

    Args:
        samples: of the wavefunction.
        wavefunction: amplitudes of configurations that were not sampled.
        hamiltonian: its `lattice`, if it has one, gives the momenta.
        few: fewer samples, see `samples_for`, for off-diagonal observables (from the one-body density matrix to the
            spin correlations), which connect each sample with up to L^2 configurations; None for `samples`.
        permutations: site permutations under which the state is symmetric, if `few` has only one member of each orbit.
        exact: exact ground state, for the fidelity.
    """
    hilbert = wavefunction.hilbert
    torus = _torus(hamiltonian)
    complete = with_unseen(hamiltonian, wavefunction, samples)
    found: dict[str, Expectation] = {}

    def add(name: str, value: Callable[[], Expectation | dict[str, Expectation]]) -> None:
        """One observable, or several that are found together; a failure costs itself alone."""
        try:
            one_or_more = value()
            found.update(one_or_more if isinstance(one_or_more, dict) else {name: one_or_more})
        except (ValueError, RuntimeError, ArithmeticError) as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=3)

    for quantity in quantities(hilbert):
        name = quantity.replace(" ", "_").replace("/", "_")
        add(f"density_{name}", partial(densities, complete, hilbert, quantity))
        add(f"correlations_{name}", partial(correlations, complete, hilbert, quantity, connected=True))
        if torus is not None:
            factor = partial(structure_factor, complete, hilbert, torus, quantity, connected=True)
            add(f"structure_factor_{name}", factor)
    if not hilbert.species:
        warnings.warn(
            f"the space states no species ({hilbert}): observables that depend on what its particles are (density "
            "matrices, spin correlations, entropy) are left out. Give HilbertSpace(.., species=..).",
            stacklevel=2,
        )
    electrons = up_and_down(hilbert)
    if electrons is not None and bool(
        (hilbert.table(electrons[0].occupation) * hilbert.table(electrons[1].occupation)).any()
    ):
        add("double_occupancy", partial(double_occupancy, complete, hilbert))
    level = None if exact is None else exact.state if exact.multiplicity == 1 else exact.level
    if level is not None:
        add("fidelity", partial(fidelity, samples, hilbert, level))
    moves = few or samples
    if mobile(hilbert):
        momenta = None if has_boundary_phases(hamiltonian) else torus
        add("one_body_density_matrix", partial(_one_body, moves, wavefunction, momenta, permutations))
    matrix = found.get("one_body_density_matrix")
    if matrix is not None and not hilbert.of_kind("fermion") and matrix.value.trace().real.item() > 0:
        condensed = partial(condensate_fraction, matrix=matrix.value, permutations=permutations)
        add("condensate_fraction", partial(condensed, moves, wavefunction))
    if electrons is not None and has_total_spin(hamiltonian):
        add("total_spin_squared", partial(total_spin_squared, moves, wavefunction))
        if matrix is not None:
            add("natural_occupations", partial(natural_occupations, moves, wavefunction, matrix.value))
    if (quantities_of := one_electron_of(hamiltonian)) is not None:
        parts = zip(quantities_of.names, quantities_of.constants, quantities_of.matrices, strict=True)
        for name, constant, matrices in parts:
            add(name, partial(one_body_quantity, moves, wavefunction, constant, matrices))
    if localised_spins(hilbert) is not None:
        add("spin_correlations", partial(spin_correlations, moves, wavefunction, permutations=permutations))
    exhaustive = samples.is_exhaustive
    replicas = samples if exhaustive or permutations is not None else moves
    weighted = replicas.inclusion_probability is not None or replicas.weighted_counts is not None
    independent = not weighted and replicas.autocorrelation_time is None and replicas.n_samples >= 4
    if hilbert.n_sites > 1 and (exhaustive or independent) and hilbert.species:
        add("renyi2_entropy", partial(renyi2_entropy, replicas, wavefunction, range(hilbert.n_sites // 2)))
    return found


def affordable(wavefunction: Wavefunction, device: torch.device | str, connected: int | None = None) -> int:
    """Number of distinct samples for which all observables can be measured in seconds.

    Args:
        connected: number of connected configurations, if fewer than usual.
    """
    moves = MOVES[torch.device(device).type]
    return max(
        1,
        min(moves, moves if connected is None else connected)
        // (wavefunction.n_images * wavefunction.hilbert.n_sites**2),
    )


def samples_for(
    samples: Samples,
    wavefunction: Wavefunction,
    generator: torch.Generator,
    sampler: Callable[..., SamplerConfig],
    connected: int | None = None,
) -> tuple[Samples, Samples, Int64[Tensor, "K L"] | None]:
    """Samples of the energy as `measure` needs them: all samples, few samples, and permutations of sites.

    Of a symmetric state one member of each orbit of the permutations is enough for `few`. Fermions in a sector without
    their signs are the exception: there a+_i a_j changes its sign under permutations.

    Args:
        sampler: of independent samples, such as TreeSampler; called with `n_distinct` or `n_samples` if there are too
            many samples of an autoregressive state; those of other states are thinned out.
        connected: number of connected configurations that there is time for; None: the usual one.
    """

    def drawn(**number: int) -> Samples:
        if not isinstance(wavefunction.sampled, AutoregressiveWavefunction):
            return fewer(samples, next(iter(number.values())), generator)
        return sampler(**number).build(wavefunction).sample(generator)

    limit = affordable(wavefunction, generator.device, connected)
    if wavefunction.symmetry is None:
        return samples, samples if samples.n_distinct <= limit else drawn(n_distinct=limit), None
    every, symmetry = wavefunction.to_sector_samples(samples, generator), wavefunction.symmetry
    if wavefunction.hilbert.of_kind("fermion") and not symmetry.fermions:
        if every.n_distinct <= limit:
            return every, every, None
        few = drawn(n_samples=limit)  # the number of orbits is not limited
        return every, wavefunction.to_sector_samples(few, generator), None
    elements = symmetry.one_for_each_map()
    limit = max(1, limit // len(elements))
    few = samples if samples.n_distinct <= limit else drawn(n_distinct=limit)
    return every, wavefunction.to_sector_samples(few, generator, elements), symmetry.site_permutations()


def stored(
    samples: Samples,
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    *,
    few: Samples | None = None,
    permutations: Int64[Tensor, "K L"] | None = None,
    exact: ExactGroundState | None = None,
) -> dict[str, torch.Tensor]:
    """All of `measure`, and the arrays that accompany it, under their names in archives; arguments as in `measure`."""
    hilbert = wavefunction.hilbert
    arrays = {"local_state_probabilities": local_state_probabilities(samples, hilbert)}
    found = measure(samples, wavefunction, hamiltonian, few=few, permutations=permutations, exact=exact)
    for name, (value, error) in found.items():
        arrays |= {name: value, f"{name}_error": error}
    if exact is not None and exact.multiplicity == 1 and hilbert.dimension * hilbert.n_sites**2 <= MOVES["cpu"]:
        every, state = exact_samples(hilbert, exact.state), StateVector(hilbert, exact.state)
        arrays["local_state_probabilities_exact"] = local_state_probabilities(every, hilbert)
        arrays |= {f"{name}_exact": value for name, (value, _) in measure(every, state, hamiltonian).items()}
    if (lattice := lattice_of(hamiltonian)) is not None:
        arrays["distances"] = lattice.distances()
    if (torus := _torus(hamiltonian)) is not None:
        arrays["wave_vectors"] = allowed_momenta(torus, antiperiodic=False)
        arrays["particle_wave_vectors"] = allowed_momenta(torus)
    return arrays


def _one_body(
    samples: Samples, wavefunction: Wavefunction, torus: Lattice | None, permutations: Int64[Tensor, "K L"] | None
) -> dict[str, Expectation]:
    """The density matrix, and on a torus the momentum distribution from the same moves."""
    if torus is None:
        return {"one_body_density_matrix": one_body_density_matrix(samples, wavefunction, permutations=permutations)}
    matrix, momenta = one_body(samples, wavefunction, torus, permutations=permutations)
    return {"one_body_density_matrix": matrix, "momentum_distribution": momenta}


def _torus(hamiltonian: Hamiltonian) -> Lattice | None:
    """The lattice, if it is periodic in all directions."""
    lattice = lattice_of(hamiltonian)
    return lattice if lattice is not None and lattice.shape and "open" not in lattice.boundary else None
