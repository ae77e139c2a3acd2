"""Molecules: matrix elements and energies against PySCF, where they come from, sectors, mistakes of users."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nqs import exact
from nqs.estimators.selected import selected_state
from nqs.hamiltonians import FermiHubbard, Integrals, Molecule
from nqs.hamiltonians.fcidump import read_fcidump
from nqs.hamiltonians.reference_energies import coupled_cluster, full_ci
from nqs.lattice import chain, square

WATER = "O 0 0 0; H 0.2774 0.8929 0.2544; H 0.6068 -0.2383 -0.7169"
NITROGEN = "N 0 0 -0.556; N 0 0 0.556"
CASES: dict[str, dict[str, Any]] = {
    "H2O": {"atom": WATER},
    "N2": {"atom": NITROGEN},
    "O2, triplet": {"atom": "O 0 0 -0.616; O 0 0 0.616", "spin": 2},
    "LiH": {"atom": "Li 0 0 0; H 0 0 1.548"},
    "H2O+, open shell": {"atom": WATER, "charge": 1},
    "OH, unrestricted": {"atom": "O 0 0 0; H 0 0 1", "unrestricted": True},
    "H4, atomic orbitals": {"atom": "H 0 0 0; H 0 0 1; H 0 0 2; H 0 0 3", "orbitals": "lowdin"},
}
DATA = Path(__file__).parent / "data"


def product_by_pyscf(molecule: Molecule, x: np.ndarray) -> np.ndarray:
    """H x by PySCF, for x by strings of up and of down electrons."""
    from pyscf import fci

    integrals, numbers, M = molecule.integrals, (molecule.n_up, molecule.n_down), molecule.integrals.n_orbitals
    if integrals.is_restricted:
        h = fci.direct_spin1.absorb_h1e(integrals.h(0), integrals.four_index(), M, numbers, 0.5)
        return fci.direct_spin1.contract_2e(h, x, M, numbers) + integrals.core * x
    v = tuple(integrals.four_index(s, t) for s, t in ((0, 0), (0, 1), (1, 1)))
    h = fci.direct_uhf.absorb_h1e((integrals.h(0), integrals.h(1)), v, M, numbers, 0.5)
    return fci.direct_uhf.contract_2e(h, x, M, numbers) + integrals.core * x


def by_strings(molecule: Molecule, n: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of configurations in PySCF's matrix of coefficients."""
    from pyscf.fci import cistring

    M, powers = molecule.integrals.n_orbitals, 2 ** np.arange(molecule.integrals.n_orbitals)
    bits = [(n.numpy() >> s & 1) @ powers for s in (0, 1)]
    return tuple(
        cistring.strs2addr(M, number, found)
        for number, found in zip((molecule.n_up, molecule.n_down), bits, strict=True)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_elements_equal_those_of_pyscf(case: dict[str, Any]) -> None:
    """H x for random x of the sector, which has all determinants, or those of the parities alone."""
    pytest.importorskip("pyscf")
    for irreps in ("none", "auto"):
        molecule = Molecule.from_geometry(**case, irreps=irreps)
        hilbert = molecule.hilbert
        x = np.random.default_rng(0).normal(size=hilbert.dimension)
        rows = by_strings(molecule, hilbert.configurations())
        strings = np.zeros([1 + int(part.max()) for part in by_strings(molecule, all_determinants(molecule))])
        strings[rows] = x
        expected = product_by_pyscf(molecule, strings)
        found = exact.sparse_matrix(molecule) @ x
        scale = np.abs(found).max()
        assert np.abs(found - expected[rows]).max() < 1e-12 * scale
        expected[rows] = 0.0
        assert np.abs(expected).max() < 1e-12 * scale  # nothing leads out of the sector


def all_determinants(molecule: Molecule) -> torch.Tensor:
    from dataclasses import replace

    return replace(molecule, irreps="none").hilbert.configurations()


def test_the_sector_of_the_parities_holds_the_ground_state() -> None:
    pytest.importorskip("pyscf")
    nitrogen = Molecule.from_geometry(NITROGEN)
    assert nitrogen.hilbert.dimension == 1824  # of 14,400: three parities of D2h
    assert exact.ground_state(nitrogen).energy == pytest.approx(full_ci(nitrogen), abs=1e-9)
    # The determinant with the lowest energy is an open shell of another irrep.
    carbon = Molecule.from_geometry("C 0 0 0; C 0 0 1.26")
    assert carbon.lowest_determinant.tolist() != carbon.peak.tolist()
    assert exact.ground_state(carbon).energy == pytest.approx(-74.69078191913434, abs=1e-8)


def test_energies_of_other_methods() -> None:
    """Values of PySCF's own Hartree-Fock and coupled cluster for the geometry (shared reference data)."""
    pytest.importorskip("pyscf")
    water = Molecule.from_geometry(WATER)
    expected = (-74.9644475827708, -75.01540899489834, -75.0154776937559)
    np.testing.assert_allclose(coupled_cluster(water), expected, rtol=0, atol=1e-6)
    assert water.diagonal(water.peak[None]).item() == pytest.approx(expected[0], abs=1e-9)
    assert full_ci(water) == pytest.approx(exact.ground_state(water).energy, abs=1e-9)


def test_frozen_orbitals_are_those_of_pyscf() -> None:
    """CASCI with the same orbitals has the same energy."""
    pyscf = pytest.importorskip("pyscf")
    mcscf = pytest.importorskip("pyscf.mcscf")
    mean_field = pyscf.scf.RHF(pyscf.gto.M(atom=WATER, verbose=0)).run(conv_tol=1e-12)
    expected = mcscf.CASCI(mean_field, 5, 6).run(verbose=0).e_tot
    molecule = Molecule.from_pyscf(mean_field, frozen=2, active=5)
    assert (molecule.n_up, molecule.integrals.n_orbitals) == (3, 5)
    assert exact.ground_state(molecule).energy == pytest.approx(expected, abs=1e-9)
    listed = Molecule.from_pyscf(mean_field, frozen=[0, 1], active=[2, 3, 4, 5, 6])
    assert exact.ground_state(listed).energy == pytest.approx(expected, abs=1e-9)


def test_frozen_unrestricted_orbitals() -> None:
    pytest.importorskip("pyscf")
    whole = Molecule.from_geometry("O 0 0 0; H 0 0 1", unrestricted=True)
    frozen = whole.active_space(1)
    n = all_determinants(frozen)
    core = torch.full_like(n[:, :1], 3)
    torch.testing.assert_close(frozen.diagonal(n), whole.diagonal(torch.cat([core, n], 1)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("orbitals", ["sites", "hopping"])
def test_hubbard_model_in_any_orbitals(orbitals: Any) -> None:
    lattice = square(2, 3)
    hubbard = FermiHubbard(lattice, 2, 3, U=4.0, V=0.5, mu=0.3, potential=(0.1, 0.2, 0.0, -0.1, 0.3, 0.0))
    energy = exact.ground_state(hubbard).energy
    molecule = Molecule.from_lattice(hubbard, orbitals, irreps="none")
    assert exact.ground_state(molecule).energy == pytest.approx(energy, abs=1e-9)


def test_order_of_the_orbitals_changes_no_energy() -> None:
    molecule = Molecule.from_fcidump(DATA / "h2o.fcidump.gz")
    turned = molecule.reordered([6, 0, 3, 2, 5, 1, 4])
    assert exact.ground_state(turned).energy == pytest.approx(exact.ground_state(molecule).energy, abs=1e-9)


# --- FCIDUMP ----------------------------------------------------------------------------------------------------


def test_fcidump_of_another_program() -> None:
    """H2O in STO-3G, written by another program without ORBSYM; FCI by PySCF."""
    molecule = Molecule.from_fcidump(DATA / "h2o.fcidump.gz")
    assert exact.ground_state(molecule).energy == pytest.approx(-75.01240139, abs=1e-8)
    assert len(molecule.parities) == 2


def test_fcidump_with_symmetry_is_read_as_pyscf_reads_it(tmp_path: Path) -> None:
    pyscf = pytest.importorskip("pyscf")
    from pyscf.tools import fcidump

    file = tmp_path / "n2.fcidump"
    mean_field = pyscf.scf.RHF(pyscf.gto.M(atom=NITROGEN, symmetry="D2h", verbose=0)).run(conv_tol=1e-12)
    fcidump.from_scf(mean_field, str(file), tol=1e-15, molpro_orbsym=True)
    theirs = fcidump.read(str(file), verbose=False)
    found = read_fcidump(file)
    assert (found.n_up, found.n_down) == (7, 7)
    assert found.irreps == tuple(theirs["ORBSYM"])
    np.testing.assert_allclose(found.integrals.h(0), theirs["H1"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        found.integrals.four_index(), pyscf.ao2mo.restore(1, theirs["H2"], 10), rtol=0, atol=1e-14
    )
    assert found.integrals.core == theirs["ECORE"]


@pytest.mark.parametrize("unrestricted", [False, True])
@pytest.mark.parametrize("ending", ["fcidump", "fcidump.gz"])
def test_fcidump_there_and_back(tmp_path: Path, unrestricted: bool, ending: str) -> None:
    random = np.random.default_rng(1)
    h, v = random.normal(size=(2, 3, 3)), random.normal(size=(3, 6, 6))
    v[:2] += v[:2].swapaxes(1, 2)
    integrals = Integrals(core=-1.25, one_body=h + h.swapaxes(1, 2), two_body=v)
    if not unrestricted:
        integrals = Integrals(core=-1.25, one_body=integrals.one_body[:1], two_body=integrals.two_body[:1])
    molecule, file = Molecule(integrals, 2, 1), tmp_path / f"x.{ending}"
    molecule.to_fcidump(file)
    again = Molecule.from_fcidump(file)
    assert again.integrals == integrals
    assert (again.n_up, again.n_down, again.name) == (2, 1, "x")


HEADER = "&FCI NORB=2,NELEC=2,MS2=0,\n ORBSYM=1,1\n ISYM=1\n&END\n"
BODY = "0.5 1 1 1 1\n0.4 2 2 1 1\n0.5 2 2 2 2\n0.1 2 1 2 1\n-1.0 1 1 0 0\n-0.5 2 2 0 0\n0.7 0 0 0 0\n"

MISTAKES = {
    "no namelist": (BODY, "is no FCIDUMP"),
    "no end of the namelist": ("&FCI NORB=2,NELEC=2,\n" + BODY, "truncated"),
    "line cut": (HEADER + BODY[:-5], "truncated"),
    "no core energy": (HEADER + BODY.replace("0.7 0 0 0 0\n", ""), "truncated"),
    "no one-electron integrals": (HEADER + "0.5 1 1 1 1\n0.7 0 0 0 0\n", "truncated"),
    "too many electrons": (HEADER.replace("NELEC=2", "NELEC=5") + BODY, "hold 0 to 4 electrons"),
    "odd spin": (HEADER.replace("MS2=0", "MS2=1") + BODY, "can have 2 S\\^z = -2 to 2 in steps of 2, not 1"),
    "large spin": (HEADER.replace("MS2=0", "MS2=4") + BODY, "can have 2 S\\^z = -2 to 2"),
    "complex": (HEADER + BODY.replace("0.1 2", "(0.1,0.2) 2"), "complex integrals"),
    "orbital out of range": (HEADER + BODY.replace("-0.5 2 2", "-0.5 3 3"), "has the orbital 3, but NORB=2"),
    "not a number": (HEADER + BODY.replace("0.4", "nan"), "an integral is nan"),
    "a word": (HEADER + BODY.replace("0.4", "zero"), "could not convert string"),
    "orbitals that are not real": (HEADER + BODY.replace("0.1 2 1 2 1", "0.1 2 1 2 1\n0.2 1 2 2 1"), "two values"),
    "no NORB": (HEADER.replace("NORB", "N") + BODY, "does not give NORB"),
    "no integral": (HEADER + BODY.replace("0.1 2 1 2 1", "0.1 2 0 2 1"), "which is none"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_a_file_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.fcidump"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Molecule.from_fcidump(file)
    assert "\n" not in str(caught.value)


def test_truncated_gzip(tmp_path: Path) -> None:
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress((HEADER + BODY).encode())[:-8])
    with pytest.raises(ValueError, match="cannot be read"):
        Molecule.from_fcidump(file)
    with pytest.raises(ValueError, match="cannot be read"):
        Molecule.from_fcidump(tmp_path / "nothing")


def test_lenient_header(tmp_path: Path) -> None:
    """Lower case, no ORBSYM, a slash at the end, exponents of Fortran, orbital energies."""
    file = tmp_path / "x"
    file.write_text("&fci norb=2,nelec=2,ms2=0 /\n" + BODY.replace("0.5 1", "0.5D+00 1") + "-0.3 1 0 0 0\n")
    found, plain = Molecule.from_fcidump(file), tmp_path / "y"
    plain.write_text(HEADER + BODY)
    assert found.integrals == Molecule.from_fcidump(plain).integrals


# --- mistakes ---------------------------------------------------------------------------------------------------


def test_impossible_molecules() -> None:
    integrals = Molecule.from_fcidump(DATA / "h2o.fcidump.gz").integrals
    with pytest.raises(ValueError, match="hold 0 to 7 electrons of each spin"):
        Molecule(integrals, 8, 5)
    with pytest.raises(ValueError, match="cutoff"):
        Molecule(integrals, 5, 5, cutoff=-1.0)
    with pytest.raises(ValueError, match="at most are doubly occupied"):
        Molecule(integrals, 5, 5).active_space(6)
    with pytest.raises(ValueError, match="4 to 6 can be active"):
        Molecule(integrals, 5, 5).active_space(1, 3)
    with pytest.raises(ValueError, match="list each of the orbitals"):
        Molecule(integrals, 5, 5).reordered([0, 0, 1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="complex"):
        Integrals.dense(0.0, np.eye(2) * 1j, np.zeros((2, 2, 2, 2)))
    with pytest.raises(ValueError, match="physicists"):
        Integrals.dense(0.0, np.eye(2), np.random.default_rng(0).normal(size=(2, 2, 2, 2)))
    with pytest.raises(ValueError, match="not symmetric"):
        Integrals.dense(0.0, np.array([[0.0, 1.0], [0.0, 0.0]]), np.zeros((2, 2, 2, 2)))


def test_impossible_geometries() -> None:
    pytest.importorskip("pyscf")
    with pytest.raises(ValueError, match="spin=1"):
        Molecule.from_geometry(NITROGEN, spin=1)
    with pytest.raises(ValueError, match="basis='sto-33g'"):
        Molecule.from_geometry(NITROGEN, "sto-33g")
    with pytest.raises(ValueError, match="linearly dependent"):
        Molecule.from_geometry("H 0 0 0; H 0 0 0.0001")
    with pytest.raises(ValueError, match="'Xy' is no element"):
        Molecule.from_geometry("Xy 0 0 0; O 0 0 1.2")
    with pytest.raises(ValueError, match="no atoms"):
        Molecule.from_geometry(" ; ")


def test_impossible_lattices() -> None:
    ring = chain(4)
    with pytest.raises(ValueError, match="fixed numbers"):
        Molecule.from_lattice(FermiHubbard(ring, 2, None, U=1.0))
    with pytest.raises(ValueError, match="real hops"):
        Molecule.from_lattice(FermiHubbard(ring, 2, 2, U=1.0, twist=(0.3,)))
    with pytest.raises(ValueError, match="h=0"):
        Molecule.from_lattice(FermiHubbard(ring, 2, 2, U=1.0, h=0.1))
    with pytest.raises(ValueError, match="orthogonal"):
        Molecule.from_lattice(FermiHubbard(ring, 2, 2, U=1.0), np.ones((4, 4)))


def test_without_pyscf(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(ImportError, match=r"pip install 'nqs\[molecules\]'"):
        Molecule.from_geometry(NITROGEN)


# --- blocks, cutoff, selected determinants ----------------------------------------------------------------------


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from nqs.hamiltonians import slater_condon

    molecule = Molecule.from_fcidump(DATA / "h2o.fcidump.gz")
    n = molecule.hilbert.configurations()
    whole = exact.sparse_matrix(molecule).toarray()
    monkeypatch.setattr(slater_condon, "CPU_BYTES", 1)
    np.testing.assert_array_equal(exact.sparse_matrix(molecule).toarray(), whole)
    assert len(molecule.connected(n[:0]).elements) == 0


def test_cutoff_changes_energies_within_its_bound() -> None:
    molecule = Molecule.from_fcidump(DATA / "h2o.fcidump.gz", irreps="none")
    rough = Molecule(molecule.integrals, 5, 5, irreps="none", cutoff=0.02)
    change = abs(exact.ground_state(rough).energy - exact.ground_state(molecule).energy)
    assert 1e-6 < change < rough.cutoff_bound
    fewer, more = (len(m.connected(m.hilbert.configurations()).elements) for m in (rough, molecule))
    assert fewer < 0.8 * more


def test_selected_determinants_converge_to_the_ground_state() -> None:
    molecule = Molecule.from_fcidump(DATA / "h2o.fcidump.gz")
    energy = exact.ground_state(molecule).energy
    few = selected_state(molecule, molecule.peak[None], 60)
    assert len(few.configurations) == 60
    assert energy < few.energy < energy + 1e-3
    assert abs(few.energy + few.second_order - energy) < 0.2 * (few.energy - energy)
    whole = selected_state(molecule, molecule.peak[None], 1000)
    assert len(whole.configurations) == molecule.hilbert.dimension
    assert whole.energy == pytest.approx(energy, abs=1e-7)
