"""Projections on symmetry sectors: the sector, the energy, and projected Hartree-Fock in polynomial time."""

import numpy as np
import pytest
import torch

import nqs
from nqs.exact import ground_state, projected_energies, weight_in_sector
from nqs.hamiltonians import TV, FermiHubbard
from nqs.hilbert import bosons
from nqs.lattice import chain, square
from nqs.models import (
    DeterminantConfig,
    Projected,
    RBMConfig,
    SlaterDeterminant,
    hartree_fock,
    projected_mean_field,
    projected_on_few,
)
from nqs.optimisation.jacobian import has_known_layers, jacobian
from nqs.protocols import Wavefunction
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry import Symmetry, symmetries_of, translations

HUBBARD = FermiHubbard(square(2, 3), 3, 3, U=4.0)
GROUP = symmetries_of(HUBBARD, fermions=True)
ORBITALS = hartree_fock(HUBBARD).determinant


def projected(symmetry: Symmetry, trained: tuple[int, ...] | None = None) -> Wavefunction:
    base = DeterminantConfig(orbitals=ORBITALS, width=4, determinants=2, correction=0.1)
    return Projected(base=base, symmetry=symmetry, trained=trained).build(HUBBARD.hilbert)


@pytest.mark.parametrize(
    "hamiltonian",
    [HUBBARD, FermiHubbard(square(2, 3), 2, 2, U=6.0), TV(square(2, 4), 4, V=3.0), TV(square(2, 3), 3, V=1.0)],
    ids=str,
)
def test_projected_mean_field_agrees_with_sums_over_the_sector(hamiltonian: FermiHubbard | TV) -> None:
    group = symmetries_of(hamiltonian, fermions=True)
    for determinant in hartree_fock(hamiltonian).solutions:
        energies = projected_energies(hamiltonian, group, [determinant])[0, 0]
        found = projected_mean_field(hamiltonian, group, determinant)
        if found is None:
            assert energies.isinf().all()
            continue
        sector, energy = found
        assert energy == pytest.approx(energies.min().item(), rel=1e-6)
        number = [one.angles for one in group.real_characters()].index(sector.angles)
        assert energies[number].item() == pytest.approx(energy, rel=1e-6)


@pytest.mark.parametrize(
    "hamiltonian",
    [
        FermiHubbard(square(2, 4), 3, 3, U=8.0),
        FermiHubbard(square(2, 3), 2, 2, U=8.0),
        FermiHubbard(square(3), 4, 4, U=8.0),
        FermiHubbard(square(3, boundary="open"), 3, 2, U=8.0),
        TV(square(4), 5, V=10.0),
        TV(square(4), 4, V=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [4, 8])
def test_few_symmetries_of_low_energy(hamiltonian: FermiHubbard | TV, most: int) -> None:
    """Their number, their energy, against sums over the sector and one symmetry alone, and a ground state in it."""
    group, mean_field = symmetries_of(hamiltonian, fermions=True), hartree_fock(hamiltonian)
    found = projected_on_few(hamiltonian, group, mean_field.determinant, most)
    assert found is not None
    sector, energy = found
    assert 1 < sector.order <= most
    number = [one.angles for one in sector.real_characters()].index(sector.angles)
    energies = projected_energies(hamiltonian, sector, [mean_field.determinant])[0, 0]
    assert energies[number].item() == pytest.approx(energy, rel=1e-6)
    assert energy < mean_field.energy
    for element in range(group.order):
        if len(powers := powers_of(group, element)) <= most:
            cyclic = group.subgroup([g in powers for g in range(group.order)])
            alone = projected_mean_field(hamiltonian, cyclic, mean_field.determinant)
            assert alone is None or energy <= alone[1] + 1e-9
    exact = np.asarray(ground_state(hamiltonian).state)
    assert weight_in_sector(sector, hamiltonian.hilbert, exact) > 0.05  # a part of it where it is degenerate


def powers_of(group: Symmetry, g: int) -> set[int]:
    """The cyclic group of an element."""
    powers, power = {0}, g
    while power not in powers:
        powers.add(power)
        power = int(group.products[power, g])
    return powers


def test_a_determinant_with_the_symmetry_keeps_its_energy() -> None:
    """Five fermions on 4x4 sites fill a shell: the determinant has all symmetries."""
    hamiltonian = TV(square(4), 5, V=1.0)
    group, mean_field = symmetries_of(hamiltonian, fermions=True), hartree_fock(hamiltonian)
    found = projected_on_few(hamiltonian, group, mean_field.determinant, 8)
    assert found is not None
    assert found[0].order == 8
    assert found[1] == pytest.approx(mean_field.energy, rel=1e-6)
    exact = np.asarray(ground_state(hamiltonian).state)
    assert weight_in_sector(found[0], hamiltonian.hilbert, exact) == pytest.approx(1, abs=1e-9)


def test_the_state_lies_in_the_sector() -> None:
    found = projected_mean_field(HUBBARD, GROUP, ORBITALS)
    assert found is not None
    sector, n = found[0], HUBBARD.hilbert.configurations()
    model = projected(sector)
    log_modulus, phase = model.log_psi(n)
    psi = (log_modulus.exp() * phase.cos()).detach()
    assert weight_in_sector(sector, HUBBARD.hilbert, (psi / psi.norm()).numpy()) == pytest.approx(1, abs=1e-10)
    assert model.is_real
    assert model.n_images == sector.order == 24


def test_the_energy_falls_and_steps_may_project_on_less() -> None:
    """The projection on the sector of the ground state lowers the energy; a subgroup lies between."""
    found = projected_mean_field(HUBBARD, GROUP, ORBITALS)
    assert found is not None
    sector = found[0]
    flip = next(g for g in range(sector.order) if sector.permutations[g] == tuple(range(6)) and sector.maps[g][1] == 2)
    whole = projected(sector, trained=(0, flip))
    part = whole.for_steps()
    assert part.n_images == 2
    assert dict(part.named_parameters()).keys() == dict(whole.named_parameters()).keys()
    energies = []
    for model in (projected(sector, trained=(0,)).for_steps(), part, whole):
        vmc = nqs.VMC(HUBBARD, model, ExhaustiveSampler())
        energies.append(vmc.run(1, progress=False).history["energy"][0])
    assert energies[0] > energies[1] + 1e-3
    assert energies[1] > energies[2] + 1e-3


def test_gradients_layer_by_layer_are_those_of_single_configurations() -> None:
    model = projected(translations(HUBBARD.lattice, HUBBARD.hilbert, fermions=True))
    n = HUBBARD.hilbert.configurations()
    n = n[model.log_psi(n).log_modulus > -20][::7]
    assert has_known_layers(model)
    rows = []
    for row in n:
        gradients = torch.autograd.grad(model.log_psi(row[None]).log_modulus[0], list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    torch.testing.assert_close(jacobian(model, n)[0], torch.stack(rows), rtol=1e-6, atol=1e-6)


def test_complex_states_and_momenta() -> None:
    """Bosons with momentum 2 pi / 4: the state takes on the phase of a translation."""
    space = bosons(4, 3)
    sector = translations(chain(4), space, momentum=(1,))
    model = Projected(base=RBMConfig(), symmetry=sector).build(space)
    n = space.configurations()
    log_modulus, phase = model.log_psi(n)
    psi = torch.polar(log_modulus.exp(), phase).detach()
    assert weight_in_sector(sector, space, (psi / psi.norm()).numpy()) == pytest.approx(1, abs=1e-10)
    assert model.has_phase
    assert not model.is_real


def test_impossible_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trained=\(99,\): give numbers of elements"):
        Projected(base=DeterminantConfig(), symmetry=GROUP, trained=(99,))
    with pytest.raises(ValueError, match="6 sites with 4 local states; the Hilbert space has"):
        Projected(base=DeterminantConfig(), symmetry=GROUP).build(FermiHubbard(chain(4), 2, 2, U=1.0).hilbert)


def test_no_component_in_any_sector() -> None:
    """One particle of momentum 2 pi / 3 is in no representation of real characters."""
    hamiltonian = TV(chain(3), 1, V=0.0)
    group = symmetries_of(hamiltonian, fermions=True)
    wave = SlaterDeterminant(up=((2.0**0.5 / 2,), (-(2.0**0.5) / 2,), (0.0,)))
    assert projected_mean_field(hamiltonian, group, wave) is None
