"""Projections on symmetry sectors: the sector, the energy, and projected Hartree-Fock in polynomial time."""

import pytest
import torch
from networks import small_determinant, small_rbm

import nqs
from nqs.exact import projected_energies, weight_in_sector
from nqs.hamiltonians import TV, FermiHubbard
from nqs.hilbert import bosons
from nqs.lattice import chain, square
from nqs.models import Projected, SlaterDeterminant, hartree_fock, projected_mean_field
from nqs.optimisation.jacobian import has_known_layers, jacobian
from nqs.protocols import Wavefunction
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry import Symmetry, symmetries_of, translations

HUBBARD = FermiHubbard(square(2, 3), 3, 3, U=4.0)
GROUP = symmetries_of(HUBBARD, fermions=True)
ORBITALS = hartree_fock(HUBBARD).determinant


def projected(symmetry: Symmetry, trained: tuple[int, ...] | None = None) -> Wavefunction:
    base = small_determinant(correction=0.1, orbitals=ORBITALS, determinants=2)
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
    model = Projected(base=small_rbm(), symmetry=sector).build(space)
    n = space.configurations()
    log_modulus, phase = model.log_psi(n)
    psi = torch.polar(log_modulus.exp(), phase).detach()
    assert weight_in_sector(sector, space, (psi / psi.norm()).numpy()) == pytest.approx(1, abs=1e-10)
    assert model.has_phase
    assert not model.is_real


def test_impossible_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trained=\(99,\): give numbers of elements"):
        Projected(base=small_determinant(), symmetry=GROUP, trained=(99,))
    with pytest.raises(ValueError, match="6 sites with 4 local states; the Hilbert space has"):
        Projected(base=small_determinant(), symmetry=GROUP).build(FermiHubbard(chain(4), 2, 2, U=1.0).hilbert)


def test_no_component_in_any_sector() -> None:
    """One particle of momentum 2 pi / 3 is in no representation of real characters."""
    hamiltonian = TV(chain(3), 1, V=0.0)
    group = symmetries_of(hamiltonian, fermions=True)
    wave = SlaterDeterminant(up=((2.0**0.5 / 2,), (-(2.0**0.5) / 2,), (0.0,)))
    assert projected_mean_field(hamiltonian, group, wave) is None
