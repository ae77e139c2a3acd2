"""Backflow determinants: what they start from, and what they find."""

import itertools
import math

import numpy as np
import pytest
import torch
from chains import metropolis
from networks import small_determinant

import nqs
from nqs.hamiltonians import TJ, TV, FermiHubbard
from nqs.hilbert import bosons, fermions, spinful_fermions
from nqs.lattice import chain, square
from nqs.models import SlaterDeterminant, hartree_fock
from nqs.models.determinant import occupied_sites
from nqs.samplers import ExhaustiveSampler, LocalMoves

HUBBARD = FermiHubbard(square(2, 3), 2, 3, U=4.0)
FERMIONS = TV(square(2, 4), 3, V=2.0)


@pytest.mark.parametrize("hamiltonian", [HUBBARD, FERMIONS], ids=["electrons", "spinless"])
@pytest.mark.parametrize("spins", ["together", "apart"])
@pytest.mark.parametrize("determinants", [1, 3])
def test_without_corrections_it_is_the_determinant_of_its_orbitals(
    hamiltonian: FermiHubbard | TV, spins: str, determinants: int
) -> None:
    orbitals = hartree_fock(hamiltonian).determinant
    config = small_determinant(correction=1e-13, orbitals=orbitals, spins=spins, determinants=determinants, seed=2)
    n = hamiltonian.hilbert.configurations()
    log_modulus, phase = config.build(hamiltonian.hilbert).log_psi(n)
    found = (log_modulus.exp() * phase.cos()).detach() / determinants
    torch.testing.assert_close(found, orbitals.amplitude(n), rtol=1e-8, atol=1e-10)


def test_the_first_energy_is_that_of_hartree_fock() -> None:
    solution = hartree_fock(HUBBARD)
    config = small_determinant(correction=1e-9, orbitals=solution.determinant)
    vmc = nqs.VMC(HUBBARD, config.build(HUBBARD.hilbert), ExhaustiveSampler())
    first = vmc.run(1, progress=False).history["energy"][0]
    assert first == pytest.approx(solution.energy, rel=1e-7)


def test_amplitudes_that_vanish_have_no_gradient() -> None:
    """Rows that are equal give a singular matrix; with a second determinant the other one is differentiated."""
    space = fermions(4, 2)
    model = small_determinant(width=0, determinants=2, seed=1).build(space)
    with torch.no_grad():
        weight = model.orbitals[0].weight.view(4, 2, 2)
        weight[1, 0] = weight[0, 0]
        weight[1] = torch.where(torch.tensor([[True], [False]]), weight[0], weight[1])
        weight[3] = weight[2]  # both vanish where the sites 2 and 3 are occupied
    n = space.configurations()
    log_modulus, _ = model.log_psi(n)
    zero = (n[:, 2] == 1) & (n[:, 3] == 1)
    assert (log_modulus == -math.inf).tolist() == zero.tolist()
    for row, value in zip(n, zero, strict=True):
        (gradient,) = torch.autograd.grad(model.log_psi(row[None]).log_modulus[0], [model.orbitals[0].weight])
        assert gradient.isfinite().all()
        assert bool(gradient.any()) != bool(value)


def test_determinants_are_sums_over_permutations() -> None:
    """All electrons in one matrix, rows in Jordan-Wigner order; several determinants are added, with their signs."""
    space = spinful_fermions(4, 1, 2)
    model = small_determinant(width=0, determinants=2, seed=1).build(space)
    with torch.no_grad():
        for embedding in model.orbitals:
            embedding.weight.normal_(generator=torch.Generator().manual_seed(int(embedding.weight.shape[0])))
    up, down = (embedding.weight.detach().view(4, 2, 3).numpy() for embedding in model.orbitals)
    n = space.configurations()
    log_modulus, phase = model.log_psi(n)
    found = (log_modulus.exp() * phase.cos()).tolist()
    for configuration, value in zip(n.tolist(), found, strict=True):
        rows = [up[s] for s, k in enumerate(configuration) if k & 1] + [
            down[s] for s, k in enumerate(configuration) if k & 2
        ]
        expected = 0.0
        for k, order in itertools.product(range(2), itertools.permutations(range(3))):
            inversions = sum(order[a] > order[b] for a in range(3) for b in range(a + 1, 3))
            expected += (-1) ** inversions * np.prod([row[k, m] for row, m in zip(rows, order, strict=True)])
        assert value == pytest.approx(expected, rel=1e-10)


def test_occupied_sites_are_listed_in_order() -> None:
    occupied = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    found = occupied_sites(occupied, 2)
    assert found[:2].tolist() == [[0, 2], [1, 2]]
    assert found.shape == (4, 2)  # other numbers of particles lie outside the sector


def test_all_electrons_may_be_of_one_spin() -> None:
    hamiltonian = FermiHubbard(chain(4), 2, 0, U=4.0)
    model = small_determinant().build(hamiltonian.hilbert)
    assert model.log_psi(hamiltonian.hilbert.configurations()).log_modulus.isfinite().all()


def test_tj_model_has_no_double_occupation() -> None:
    hamiltonian = TJ(chain(4), 1, 2, J=0.4)
    model = small_determinant().build(hamiltonian.hilbert)
    assert model.log_psi(hamiltonian.hilbert.configurations()).log_modulus.isfinite().all()


@pytest.mark.parametrize("hamiltonian", [HUBBARD, FERMIONS], ids=["electrons", "spinless"])
@pytest.mark.usefixtures("unchecked")
def test_markov_chains_and_natural_gradient_find_the_ground_state(hamiltonian: FermiHubbard | TV) -> None:
    """Within its error bars the energy is not below the exact one, and less than 1 % above."""
    exact = nqs.exact.ground_state(hamiltonian).energy
    orbitals = hartree_fock(hamiltonian).determinant
    bonds = hamiltonian.lattice.bonds().tolist()
    sampler = metropolis(n_samples=200, n_chains=100, moves=(LocalMoves(sites=bonds), LocalMoves()))
    model = small_determinant(width=8, orbitals=orbitals, determinants=2).build(hamiltonian.hilbert)
    result = nqs.VMC(hamiltonian, model, sampler, evaluation=sampler).run(40, progress=False)
    assert not math.isnan(result.estimate.error)
    assert abs(result.estimate.energy - exact) < 0.01 * abs(exact) + 4 * result.estimate.error
    assert result.estimate.energy > exact - 5 * result.estimate.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"determinants": 0}, "determinants=0: it must be at least 1"),
        ({"width": -1}, "width=-1: it must be at least 0"),
        ({"layers": 0}, "layers=0: it must be at least 1"),
        ({"spins": "mixed"}, "spins='mixed': choose 'together' or 'apart'"),
        ({"dtype": "float16"}, "dtype='float16': choose 'float64', 'float32' or 'mixed'"),
        ({"correction": 0.0}, "correction=0.0: it must be a positive number"),
        ({"width": 6, "heads": 4}, "width=6 is not divisible by heads=4"),
        ({"orbitals": SlaterDeterminant(up=((1.0,),), up_imaginary=((1.0,),))}, "these are complex"),
        ({"seed": 0.5}, "seed=0.5 is a float: give a whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_determinant(**options)


@pytest.mark.parametrize("space", [bosons(4, 4), fermions(4), spinful_fermions(4, 2, None)])
def test_other_sectors_are_refused(space: object) -> None:
    with pytest.raises(ValueError, match="a determinant needs fermions in fixed numbers"):
        small_determinant().build(space)  # type: ignore[arg-type]


def test_orbitals_of_another_sector_are_refused() -> None:
    orbitals = hartree_fock(HUBBARD).determinant
    with pytest.raises(ValueError, match=r"\(6, 2\) and \(6, 3\) numbers .* but the sector has 6 sites and 3 and 2"):
        small_determinant(orbitals=orbitals).build(spinful_fermions(6, 3, 2))


@pytest.mark.parametrize("shape", [(2, 3), (5,)])
def test_markov_chains_start_from_the_mean_field(shape: tuple[int, ...]) -> None:
    """Chi-square of 20,000 draws against |<n|determinant>|^2."""
    lattice = chain(*shape) if len(shape) == 1 else square(*shape, boundary="open")
    h = FermiHubbard(lattice, 2, 1, U=4.0, potential=[0.3 * site for site in range(lattice.n_sites)])
    model = small_determinant(orbitals=hartree_fock(h).determinant).build(h.hilbert)
    n = model.initial_configurations(20_000, torch.Generator().manual_seed(0))
    assert h.hilbert.contains(n).all()
    sector = h.hilbert.configurations()
    p = model.config.orbitals.amplitude(sector).abs().square()
    p = 0.999 * p / p.sum()  # conditionals are mixed with the uniform distribution, 1e-3 at every site
    observed = torch.bincount(h.hilbert.rank(n), minlength=len(sector)).double()
    likely = p * len(n) >= 20
    rest = observed[~likely].sum(), (1 - p[likely].sum()) * len(n)
    chi = ((observed - p * len(n)).square() / (p * len(n)))[likely].sum()
    assert chi < likely.sum() + 6 * (2 * likely.sum()) ** 0.5
    assert rest[0] < rest[1] + 6 * rest[1] ** 0.5 + 0.01 * len(n)
