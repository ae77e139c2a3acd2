"""Hartree-Fock: bounds, closed forms, self-consistency, open shells, and how right its signs are."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nqs import exact
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, NetKetOperator, staggered_potential, to_netket
from nqs.lattice import chain, honeycomb, kagome, square, triangular
from nqs.models import SlaterDeterminant, free_fermions, hartree_fock, phase_agreement
from nqs.observables import StateVector, exact_samples, one_body_density_matrix

pytestmark = pytest.mark.usefixtures("unchecked")

MODELS = {
    "half filling": FermiHubbard(square(2, 3, "open"), 3, 3, U=4.0),
    "open shell": FermiHubbard(square(2, 3), 2, 2, U=4.0),  # iterating "fill the lowest levels" never converges
    "doped ring": FermiHubbard(chain(6), 2, 2, U=8.0),
    "twisted, t', V": FermiHubbard(chain(6), 2, 3, U=4.0, t2=0.3, V=0.7, mu=0.4, h=0.2, twist=(0.4,)),
    "antiperiodic, attractive": FermiHubbard(
        square(2, 3, "antiperiodic"), 2, 3, U=-3.0, potential=(0.1, 1, 0, 0, 1, 2)
    ),
    "frustrated": FermiHubbard(triangular(3, 2, "open"), 3, 2, U=6.0),
    "no up electrons": FermiHubbard(chain(4), 0, 2, U=4.0, V=1.0),
    "full of up electrons": FermiHubbard(chain(4), 4, 1, U=4.0),
    "spinless": TV(square(3, 3), 4, V=2.0),
    "spinless, kagome": TV(kagome(2, 1), 3, V=1.5, mu=0.3),
    "spinless, twisted": TV(honeycomb(2, 2, ["periodic", "open"]), 3, V=3.0, twist=(0.3, 0.0)),
    "spinless, attractive": TV(chain(8), 4, V=-1.5, potential=staggered_potential(chain(8), 0.2)),
}
every_model = pytest.mark.parametrize("h", MODELS.values(), ids=MODELS)


def state(h: Any, determinant: SlaterDeterminant) -> np.ndarray:
    """The whole determinant as a vector, amplitudes from minors."""
    n = h.hilbert.configurations().numpy()
    psi = np.ones(len(n), dtype=complex)
    parts = [(determinant.up, determinant.up_imaginary, n % 2 == 1)]
    if determinant.down is not None:
        parts.append((determinant.down, determinant.down_imaginary, n >= 2))
    for real, imaginary, occupied in parts:
        orbitals = np.array(real, dtype=complex) + (1j * np.array(imaginary) if imaginary is not None else 0)
        psi *= [np.linalg.det(orbitals[row]) for row in occupied]
    return psi


@every_model
def test_energy_is_that_of_the_determinant_and_bounds_the_exact_one(h: Any) -> None:
    found = hartree_fock(h)
    psi = state(h, found.determinant)
    assert np.linalg.norm(psi) == pytest.approx(1.0, abs=1e-12)
    matrix = exact.sparse_matrix(h)
    assert np.vdot(psi, matrix @ psi).real == pytest.approx(found.energy, abs=1e-10)
    assert found.energy == pytest.approx(min(found.energies.values()), abs=1e-8)
    assert found.energy >= exact.ground_state(h).energy - 1e-10


@every_model
def test_orbitals_are_self_consistent_and_fill_the_lowest_levels(h: Any) -> None:
    """The field is written down again here; U joins the spins of a site, V all electrons of two neighbours."""
    found = hartree_fock(h)
    psi, L = state(h, found.determinant), h.lattice.n_sites
    samples, wavefunction = exact_samples(h.hilbert, psi), StateVector(h.hilbert, psi)
    spins = ("up", "down") if isinstance(h, FermiHubbard) else (None,)
    rho = [one_body_density_matrix(samples, wavefunction, spin=spin).value.numpy() for spin in spins]  # <a+_i a_j>
    density = [r.diagonal().real for r in rho]
    np.testing.assert_allclose(found.densities, density, atol=1e-9)
    if isinstance(h, TV):
        alone = [replace(h, n_particles=1)]
    else:
        alone = [replace(h, n_up=1, n_down=0), replace(h, n_up=0, n_down=1)]
    for s, r in enumerate(rho):
        one = exact.sparse_matrix(alone[s]).toarray()[::-1, ::-1]  # the particle on the last site comes first
        fock = one + (h.U * np.diag(density[1 - s]) if len(rho) == 2 else 0.0) + 0j
        for i, j in h.lattice.bonds().tolist():
            fock[i, i] += h.V * sum(density)[j]
            fock[j, j] += h.V * sum(density)[i]
            fock[i, j] -= h.V * r[j, i]
            fock[j, i] -= h.V * r[i, j]
        assert np.abs(fock @ r.T - r.T @ fock).max() < 1e-8
        filling = round(density[s].sum())
        levels = np.linalg.eigvalsh(fock)
        if h.V >= 0:  # electrons of equal spin that attract each other may leave a lower level empty
            assert np.trace(fock @ r.T).real == pytest.approx(levels[:filling].sum(), abs=1e-8)
        if 0 < filling < L:
            assert found.gap <= max(0.0, levels[filling] - levels[filling - 1]) + 1e-8


@pytest.mark.parametrize("twist", [None, (0.7,)])
def test_free_fermions_without_interaction(twist: tuple[float] | None) -> None:
    h = FermiHubbard(chain(6), 3, 1, U=0.0, t2=0.3, twist=twist)
    found = hartree_fock(h)
    assert found.energy == pytest.approx(exact.ground_state(h).energy, abs=1e-12)
    for determinant in (found.determinant, free_fermions(h)):
        assert phase_agreement(determinant, h.hilbert, exact.ground_state(h).state) == pytest.approx(1.0, abs=1e-8)
    spinless = TV(square(3, 3), 5, V=0.0)
    assert hartree_fock(spinless).energy == pytest.approx(exact.ground_state(spinless).energy, abs=1e-12)


def test_atomic_limit() -> None:
    """Without hopping the electrons avoid each other, and a determinant is exact."""
    antiferromagnet = hartree_fock(FermiHubbard(chain(6), 3, 3, U=5.0, t=0.0), starts=["staggered"])
    assert antiferromagnet.energy == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(antiferromagnet.densities, [[1, 0] * 3, [0, 1] * 3], atol=1e-9)
    assert antiferromagnet.gap == pytest.approx(5.0)
    assert hartree_fock(TV(chain(6), 3, V=2.0, t=0.0)).energy == pytest.approx(0.0, abs=1e-12)
    assert hartree_fock(FermiHubbard(chain(4), 3, 3, U=5.0, t=0.0)).energy == pytest.approx(10.0, abs=1e-12)


def test_two_sites_by_hand() -> None:
    """E = -2 t + U/2 up to U = 2 t, where the spins order; E = -2 t^2 / U beyond."""
    for U, energy in ((1.0, -1.5), (4.0, -0.5), (10.0, -0.2)):
        assert hartree_fock(FermiHubbard(chain(2), 1, 1, U=U)).energy == pytest.approx(energy, abs=1e-12)


def test_one_electron_does_not_feel_itself() -> None:
    """Exchange cancels the Hartree term of V: one fermion alone, or one of each spin apart from U, is exact."""
    for h in (TV(chain(5), 1, V=3.0), FermiHubbard(chain(4), 1, 0, U=4.0, V=3.0)):
        assert hartree_fock(h).energy == pytest.approx(exact.ground_state(h).energy, abs=1e-12)


def test_starts_choose_which_symmetries_break() -> None:
    h = FermiHubbard(chain(8, boundary="antiperiodic"), 4, 4, U=4.0)
    uniform = hartree_fock(h, starts=["uniform"])
    np.testing.assert_allclose(uniform.densities, 0.5, atol=1e-9)
    symmetric = hartree_fock(h, starts=["staggered"], symmetry_breaking=0.0)
    assert symmetric.energy == pytest.approx(uniform.energy, abs=1e-12)
    broken = hartree_fock(h)
    assert broken.start == "staggered"
    assert broken.energy < uniform.energy - 1
    assert set(broken.energies) == {"uniform", "staggered", 0, 1, 2, 3}
    assert hartree_fock(h, starts=[7]).energy == pytest.approx(broken.energy, abs=1e-8)


def test_an_open_shell_says_so() -> None:
    """Levels 2 and 3 of the ring are degenerate: any filling of them has the lowest energy."""
    found = hartree_fock(FermiHubbard(chain(6), 2, 2, U=0.0))
    assert found.energy == pytest.approx(-6.0, abs=1e-12)
    assert found.gap == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("U", "agreement"), [(4.0, 0.99), (8.0, 0.96)])
@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_signs_of_the_half_filled_hubbard_ladder(shape: tuple[int, int], U: float, agreement: float) -> None:
    h = FermiHubbard(square(*shape), 4, 4, U=U)
    state = exact.ground_state(h).state
    for starts in (None, ["staggered"]):
        found = hartree_fock(h, starts=starts)
        assert phase_agreement(found.determinant, h.hilbert, state) >= agreement


def test_determinants_that_vanish_by_symmetry_have_a_definite_sign() -> None:
    """Row operations change what rounding leaves of them; the phase must not depend on that, nor on the batch."""
    h = FermiHubbard(square(2, 4), 4, 4, U=8.0)
    n = h.hilbert.configurations()
    determinant = hartree_fock(h).determinant
    phase = determinant.phase(n)
    vanish = torch.from_numpy(np.abs(state(h, determinant)) < 1e-14)
    assert 100 < int(vanish.sum()) < len(n)
    random = np.random.default_rng(0)
    up, down = (np.array(x) @ np.linalg.qr(random.normal(size=(4, 4)))[0] for x in (determinant.up, determinant.down))
    turned = SlaterDeterminant.from_orbitals(up, down).phase(n)
    assert (phase[vanish] == 0).all()
    assert (turned[vanish] == 0).all()
    assert len(torch.cos(turned - phase)[~vanish].sign().unique()) == 1


def test_an_operator_of_netket_has_the_same_mean_field() -> None:
    h = FermiHubbard(chain(4), 2, 1, U=4.0, V=0.5)
    there = NetKetOperator.from_netket(to_netket(h))
    assert hartree_fock(there, starts=[0, 1]).energy == pytest.approx(hartree_fock(h, starts=[0, 1]).energy, abs=1e-9)


@pytest.mark.parametrize(
    ("h", "options", "error", "text"),
    [
        (FermiHubbard(chain(4), None, 2, U=1.0), {}, ValueError, r"fermions with fixed numbers.*the space is"),
        (TJ(chain(4), 1, 1, J=0.4), {}, ValueError, r"fermions with fixed numbers"),
        (BoseHubbard(chain(4), 2, U=1.0), {}, ValueError, r"fermions with fixed numbers"),
        (TV(chain(5), 2, V=1.0), {"starts": ["staggered"]}, ValueError, r"not bipartite"),
        (TV(chain(4), 2, V=1.0), {"starts": ["stripes"]}, ValueError, r"'stripes' is unknown.*'uniform', 'staggered'"),
        (TV(chain(6), 2, V=1.0), {"max_iterations": 1}, RuntimeError, r"not converge in 1 iterations.*raise max_iter"),
    ],
)
def test_errors_say_what_to_do(h: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        hartree_fock(h, **options)


def test_larger_lattices_converge() -> None:
    assert math.isfinite(hartree_fock(FermiHubbard(square(6, 4), 10, 10, U=4.0), starts=["staggered"]).energy)
