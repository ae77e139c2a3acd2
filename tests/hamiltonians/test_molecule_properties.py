"""Density matrices, dipole moments and charges of molecules against PySCF."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer

import nqs
from nqs import exact
from nqs.cli.commands.export import Export
from nqs.hamiltonians import Integrals, Molecule
from nqs.observables import StateVector, exact_samples
from nqs.observables.measure import measure
from nqs.observables.two_body import two_body_density_matrix
from nqs.samplers import ExhaustiveSampler, TreeSampler

WATER = "O 0 0 0; H 0.2774 0.8929 0.2544; H 0.6068 -0.2383 -0.7169"
CASES: dict[str, dict[str, Any]] = {
    "H2O": {"atom": WATER},
    "H2O, frozen": {"atom": WATER, "frozen": 1, "active": 5},
    "O2, triplet": {"atom": "O 0 0 -0.616; O 0 0 0.616", "spin": 2},
}
FILE = Path(__file__).parent / "data" / "h2o.fcidump.gz"


def by_strings(molecule: Molecule, n: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Rows and columns of configurations in PySCF's matrix of coefficients."""
    from pyscf.fci import cistring

    M, powers = molecule.integrals.n_orbitals, 2 ** np.arange(molecule.integrals.n_orbitals)
    numbers = (molecule.n_up, molecule.n_down)
    return tuple(cistring.strs2addr(M, number, (n.numpy() >> s & 1) @ powers) for s, number in enumerate(numbers))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_density_matrices_of_the_exact_state_are_those_of_pyscf(case: dict[str, Any]) -> None:
    pytest.importorskip("pyscf")
    from pyscf import fci

    molecule = Molecule.from_geometry(**case)
    found = exact.ground_state(molecule)
    samples, psi = exact_samples(molecule.hilbert, found.state), StateVector(molecule.hilbert, found.state)
    two, error = two_body_density_matrix(samples, psi)
    M, numbers, integrals = molecule.integrals.n_orbitals, (molecule.n_up, molecule.n_down), molecule.integrals
    solver = fci.direct_spin1.FCI()
    solver.conv_tol, solver.max_cycle = 1e-14, 500
    _, c = solver.kernel(integrals.h(0), integrals.four_index(), M, numbers)
    one_pyscf, two_pyscf = solver.make_rdm12(c, M, numbers)
    np.testing.assert_allclose(two.numpy(), two_pyscf, atol=1e-6)
    one = torch.einsum("pqrr->pq", two).numpy() / (sum(numbers) - 1)
    np.testing.assert_allclose(one, one_pyscf, atol=1e-6)
    energy = integrals.core + (integrals.h(0) * one).sum() + (integrals.four_index() * two.numpy()).sum() / 2
    assert energy == pytest.approx(found.energy, abs=1e-10)
    assert not error.any()


def test_error_bars_of_a_sampled_density_matrix() -> None:
    """z of all elements, which are correlated: their mean square is 1 within a factor of two."""
    molecule = Molecule.from_fcidump(FILE)
    found = exact.ground_state(molecule)
    psi = small_transformer(phase="learned", seed=1).build(molecule.hilbert)
    every = ExhaustiveSampler().build(psi).sample(torch.Generator().manual_seed(0))
    exactly = two_body_density_matrix(every, psi).value
    squares = []
    for seed in range(8):
        samples = TreeSampler(n_samples=2_000).build(psi).sample(torch.Generator().manual_seed(seed))
        value, error = two_body_density_matrix(samples, psi)
        known = error > 0
        squares.append(((value - exactly) / error)[known].square().mean().item())
    assert 0.3 < np.mean(squares) < 2
    assert found.energy < 0


def test_dipole_moment_and_charges_of_a_determinant_are_those_of_pyscf() -> None:
    """Quantities of the Hartree-Fock density matrix, in all orbitals and with a frozen one in another order."""
    pyscf = pytest.importorskip("pyscf")
    mean_field = pyscf.scf.RHF(pyscf.gto.M(atom=WATER, basis="6-31g", verbose=0)).run(conv_tol=1e-12)
    dipole = mean_field.dip_moment(unit="AU", verbose=0)
    mulliken = mean_field.mulliken_pop(verbose=0)[1]
    S = mean_field.get_ovlp()
    values, vectors = np.linalg.eigh(S)
    half = (vectors * np.sqrt(values)) @ vectors.T
    populations = np.diag(half @ mean_field.make_rdm1() @ half)
    rows = mean_field.mol.aoslice_by_atom()
    lowdin = [Z - populations[slice(*row[2:])].sum() for Z, row in zip((8, 1, 1), rows, strict=True)]
    whole = Molecule.from_pyscf(mean_field)
    for molecule, occupied in ((whole, range(5)), (whole.active_space(1, 9).reordered(range(8, -1, -1)), range(5, 9))):
        assert molecule.one_electron is not None
        matrix = np.zeros((molecule.integrals.n_orbitals,) * 2)
        matrix[list(occupied), list(occupied)] = 2
        found = molecule.one_electron.of(matrix)
        np.testing.assert_allclose(found["dipole_moment"], dipole, atol=1e-8)
        np.testing.assert_allclose(found["mulliken_charges"], mulliken, atol=1e-8)
        np.testing.assert_allclose(found["lowdin_charges"], lowdin, atol=1e-8)


def test_measured_quantities_have_error_bars_and_follow_from_the_density_matrix() -> None:
    pytest.importorskip("pyscf")
    molecule = Molecule.from_geometry(WATER)
    found = exact.ground_state(molecule)
    samples, psi = exact_samples(molecule.hilbert, found.state), StateVector(molecule.hilbert, found.state)
    measured = measure(samples, psi, molecule)
    assert molecule.one_electron is not None
    matrix = measured["one_body_density_matrix"].value.numpy()
    for name, wanted in molecule.one_electron.of(matrix).items():
        np.testing.assert_allclose(measured[name].value.numpy(), wanted, atol=1e-10)
    assert measured["mulliken_charges"].value.sum().item() == pytest.approx(0.0, abs=1e-10)
    occupations = measured["natural_occupations"].value
    assert occupations.sum().item() == pytest.approx(10.0)
    assert bool((occupations.diff() <= 1e-12).all())
    assert "dipole_moment" not in measure(samples, psi, Molecule.from_fcidump(FILE))


def test_spin_penalty_is_the_operator_of_pyscf() -> None:
    """w [S^2 - s (s + 1)] x for random x, in a sector with and one without as many up as down electrons."""
    pytest.importorskip("pyscf")
    from pyscf.fci import spin_op

    random = np.random.default_rng(0)
    for charge, s in ((0, 0.0), (1, 0.5)):
        plain = Molecule.from_geometry(WATER, charge=charge, irreps="none")
        penalised = replace(plain, spin_penalty=0.7)
        n = plain.hilbert.configurations()
        rows = by_strings(plain, n)
        M, numbers = plain.integrals.n_orbitals, (plain.n_up, plain.n_down)
        x = random.standard_normal(tuple(math.comb(M, number) for number in numbers))
        wanted = 0.7 * (spin_op.contract_ss(x, M, numbers) - s * (s + 1) * x)
        difference = exact.sparse_matrix(penalised) - exact.sparse_matrix(plain)
        np.testing.assert_allclose(difference @ x[rows], wanted[rows], atol=1e-11)


def test_spin_penalty_selects_the_singlet_of_oxygen() -> None:
    pytest.importorskip("pyscf")
    from pyscf import fci

    molecule = Molecule.from_geometry("O 0 0 -0.616; O 0 0 0.616", spin=0, spin_penalty=1.0)
    integrals, M = molecule.integrals, molecule.integrals.n_orbitals
    solver = fci.addons.fix_spin_(fci.direct_spin1.FCI(), shift=1.0, ss=0)
    solver.conv_tol, solver.max_cycle = 1e-12, 500
    singlet = solver.kernel(integrals.h(0), integrals.four_index(), M, (8, 8), ecore=integrals.core)[0]
    triplet = exact.ground_state(Molecule.from_geometry("O 0 0 -0.616; O 0 0 0.616", spin=2)).energy
    found = exact.ground_state(molecule)
    assert found.energy == pytest.approx(singlet, abs=1e-7)
    assert found.energy > triplet + 0.01
    samples, psi = exact_samples(molecule.hilbert, found.state), StateVector(molecule.hilbert, found.state)
    assert measure(samples, psi, molecule)["total_spin_squared"].value.item() == pytest.approx(0.0, abs=1e-6)


def test_impossible_spin_penalties() -> None:
    molecule = Molecule.from_fcidump(FILE)
    with pytest.raises(ValueError, match="spin_penalty=-1"):
        replace(molecule, spin_penalty=-1)
    both = molecule.integrals
    unrestricted = Integrals.dense(0.0, [both.h(0)] * 2, [both.four_index()] * 3)
    with pytest.raises(ValueError, match="unrestricted"):
        Molecule(unrestricted, 5, 5, spin_penalty=1.0)


@pytest.mark.parametrize("steps", [2])
def test_density_matrices_are_exported(tmp_path: Path, steps: int) -> None:
    """The energy from the matrices is that of the state, which a sum over the sector gives."""
    molecule, path = Molecule.from_fcidump(FILE), tmp_path / "h2o.h5"
    nqs.ground_state(molecule, sampled=True, steps=steps, device="cpu", threads=1, archive=path, progress=False)
    Export(file=path, output=(tmp_path / "matrices.npz",))()
    with np.load(tmp_path / "matrices.npz") as found:
        one, two = found["dm1"], found["dm2"]
        assert found["dm2_error"].shape == two.shape
    integrals = molecule.integrals
    energy = integrals.core + (integrals.h(0) * one).sum() + (integrals.four_index() * two).sum() / 2
    assert energy == pytest.approx(nqs.expect(molecule, path, ExhaustiveSampler()).value.item(), abs=1e-9)
    assert np.trace(one) == pytest.approx(10)
