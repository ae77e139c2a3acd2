"""Lists of determinants of other programs against full CI of PySCF, in its own integrals and order of operators."""

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nqs import exact
from nqs.hamiltonians import Molecule
from nqs.hamiltonians.determinant_list import interleaved_signs, read_determinants
from nqs.recipes.peaked import SELECTED, from_list

pyscf = pytest.importorskip("pyscf")
STRETCHED = "H 0 0 0; Li 0 0 2.6"
LETTERS = np.array(["0", "a", "b", "2"])


@functools.cache
def lithium_hydride(spin: int = 0) -> tuple[Molecule, Any, float]:
    """LiH with a long bond, and full CI of PySCF of the same orbitals: (strings up, strings down), its energy."""
    from pyscf import fci

    geometry = pyscf.gto.M(atom=STRETCHED, basis="sto-3g", spin=spin, verbose=0)
    mean_field = pyscf.scf.ROHF(geometry).run(conv_tol=1e-12)
    solver = fci.FCI(mean_field)
    solver.conv_tol = 1e-13
    energy, coefficients = solver.kernel()
    return Molecule.from_pyscf(mean_field, irreps="none"), np.asarray(coefficients), float(energy)


def strings(molecule: Molecule) -> tuple[np.ndarray, np.ndarray]:
    from pyscf.fci import cistring

    M = molecule.integrals.n_orbitals
    up, down = (cistring.make_strings(range(M), N) for N in (molecule.n_up, molecule.n_down))
    return np.asarray(up), np.asarray(down)


def interleaving(row: np.ndarray) -> int:
    """Sign of the permutation that sorts operators from orbital to orbital, up before down; by counting inversions."""
    order = [(p, s) for s in (0, 1) for p in range(len(row)) if row[p] >> s & 1]
    return (-1) ** sum(x > y for x, y in itertools.combinations(order, 2))


def text(n: np.ndarray, amplitudes: np.ndarray) -> str:
    """As Dice prints it, with groups of five orbitals."""
    lines = ["Root Energy Time(s)", "   0   -7.8  0.07", "Printing most important determinants", "State :   0"]
    for k, (row, x) in enumerate(zip(n, amplitudes, strict=True)):
        letters = LETTERS[row]
        lines.append(f"{k:4d} {x:18.10f}  {' '.join(letters[:5])}   {' '.join(letters[5:])}")
    return "\n".join([*lines, "State :   1", "   0   0.9900000000  0 0 0 2 2   0", "Time: 0.5"])


def energy_of(molecule: Molecule, n: torch.Tensor, c: torch.Tensor) -> float:
    """<c|H|c> by the matrix of the whole sector."""
    state = np.zeros(molecule.hilbert.dimension)
    state[molecule.hilbert.rank(n).numpy()] = c.numpy()
    return float(state @ (exact.sparse_matrix(molecule) @ state))


@pytest.mark.parametrize("spin", [0, 2])
def test_strings_of_full_ci(tmp_path: Path, spin: int) -> None:
    molecule, coefficients, energy = lithium_hydride(spin)
    up, down = strings(molecule)
    np.savez(tmp_path / "fci.npz", coefficients=coefficients, strings_up=up, strings_down=down)
    n, c = read_determinants(tmp_path / "fci.npz", molecule)
    assert energy_of(molecule, n, c) == pytest.approx(energy, abs=1e-9)
    assert bool((c.abs().diff() <= 0).all())


def test_selected_ci_of_pyscf(tmp_path: Path) -> None:
    from pyscf import fci

    molecule, _, exact_energy = lithium_hydride()
    M = molecule.integrals.n_orbitals
    solver: Any = fci.selected_ci.SelectedCI()
    solver.select_cutoff = solver.ci_coeff_cutoff = 0.02
    energy, ci = solver.kernel(
        molecule.integrals.h(0), molecule.integrals.four_index(), M, (2, 2), ecore=molecule.integrals.core
    )
    up, down = ci._strs
    np.savez(tmp_path / "sci.npz", coefficients=np.asarray(ci), strings_up=up, strings_down=down)
    n, c = read_determinants(tmp_path / "sci.npz", molecule)
    assert energy_of(molecule, n, c) == pytest.approx(energy, abs=1e-8)
    assert energy > exact_energy + 1e-7


@pytest.mark.parametrize("signs", ["separate", "interleaved"])
def test_text_in_either_order_of_operators(tmp_path: Path, signs: str) -> None:
    molecule, coefficients, energy = lithium_hydride()
    up, down = strings(molecule)
    np.savez(tmp_path / "fci.npz", coefficients=coefficients, strings_up=up, strings_down=down)
    n, c = (x.numpy() for x in read_determinants(tmp_path / "fci.npz", molecule))
    printed = c if signs == "separate" else c * np.array([interleaving(row) for row in n])
    assert signs == "separate" or (printed != c).any()
    (tmp_path / "dice.out").write_text(text(n, -printed))
    found = read_determinants(tmp_path / "dice.out", molecule)
    assert energy_of(molecule, *found) == pytest.approx(energy, abs=1e-7)
    overlap = sum(a * b for a, b in zip(c, -found.amplitudes.numpy(), strict=True))
    assert overlap == pytest.approx(1, abs=1e-7)


def test_words_of_block2(tmp_path: Path) -> None:
    molecule, *_ = lithium_hydride()
    (tmp_path / "mps.txt").write_text("DET 0 220000 =  0.9500000000\nDET 1 202000 = -0.1D-1\nDET 2 2uD000 = 0.0001\n")
    n, c = read_determinants(tmp_path / "mps.txt", molecule, signs="separate")
    assert n.tolist() == [[3, 3, 0, 0, 0, 0], [3, 0, 3, 0, 0, 0], [3, 1, 2, 0, 0, 0]]
    assert (c[1:] / c[0]).tolist() == pytest.approx([-0.01 / 0.95, 0.0001 / 0.95])


def test_signs_of_the_order_of_operators() -> None:
    molecule, *_ = lithium_hydride()
    n = molecule.hilbert.configurations().numpy()
    assert interleaved_signs(n).tolist() == [interleaving(row) for row in n]


def test_a_list_as_a_start(tmp_path: Path) -> None:
    molecule, coefficients, energy = lithium_hydride()
    up, down = strings(molecule)
    np.savez(tmp_path / "fci.npz", coefficients=coefficients, strings_up=up, strings_down=down)
    n, c = read_determinants(tmp_path / "fci.npz", molecule, most=20)
    assert len(n) == 20 < SELECTED
    reference, line = from_list(molecule, n, c, "Hartree")
    assert 20 < len(reference.configurations) <= molecule.hilbert.dimension
    assert "20 given configurations" in line
    phases = reference.phase(n).cos()  # of a real list: 1 or -1
    torch.testing.assert_close(phases, c.sign())
    assert energy_of(molecule, n, c) > energy


WRONG = {
    "0.9 2 2 0 0 0": "5 orbitals, the molecule has 6",
    "0.9 2 2 2 0 0 0": "3 up and 3 down electrons, the molecule 2 and 2",
    "0.9 2 2 0 0 0 0\n0.1 2 2 0 0 0 0": "listed twice",
    "0.9 0.1 2 2 0 0 0 0": "real amplitudes",
    "0.9 2 + - 0 0 0": "configuration state function",
    "0.1 2 2 0 0 0 0\n0.9 0 0 0 0 2 2": "Does the list have signs",
    "nothing of that kind": "lists no determinant",
}


@pytest.mark.parametrize(("contents", "message"), WRONG.items())
def test_errors_of_text(tmp_path: Path, contents: str, message: str) -> None:
    molecule, *_ = lithium_hydride()
    (tmp_path / "list.txt").write_text(contents)
    if "signs" in message:  # a positive element of H between the two, and the same sign
        (tmp_path / "list.txt").write_text(_without_signs(molecule))
    with pytest.raises(ValueError, match=message):
        read_determinants(tmp_path / "list.txt", molecule)


def _without_signs(molecule: Molecule) -> str:
    """Moduli of the amplitudes of the highest state of two connected closed-shell determinants."""
    n = torch.tensor([[3, 3, 0, 0, 0, 0]], dtype=torch.uint8)
    connected = molecule.connected(n)
    closed = ((connected.configurations == 3).sum(1) == 2) & (connected.elements > 0)
    row = connected.configurations[int(closed.nonzero()[0, 0])].tolist()
    return f"0.8 2 2 0 0 0 0\n0.6 {' '.join(LETTERS[row])}"


def test_errors_of_arrays(tmp_path: Path) -> None:
    molecule, coefficients, _ = lithium_hydride()
    up, down = strings(molecule)
    cases: dict[str, dict[str, np.ndarray]] = {
        "give configurations and amplitudes": {"x": up},
        r"they are \(A, B\)": {"coefficients": coefficients, "strings_up": up[1:], "strings_down": down},
        "7 orbitals, the molecule has 6": {"coefficients": coefficients, "strings_up": up << 1, "strings_down": down},
        "complex": {"configurations": np.zeros((1, 6)), "amplitudes": np.ones(1) * 1j},
        "0 to 3": {"configurations": np.full((1, 6), 4), "amplitudes": np.ones(1)},
        "all 0": {"configurations": np.array([[3, 3, 0, 0, 0, 0]]), "amplitudes": np.zeros(1)},
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "list.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            read_determinants(tmp_path / "list.npz", molecule)
    with pytest.raises(ValueError, match="No such file"):
        read_determinants(tmp_path / "missing.npz", molecule)


def test_determinants_of_other_parities(tmp_path: Path) -> None:
    whole, *_ = lithium_hydride()
    molecule = Molecule(whole.integrals, 2, 2)
    n = whole.hilbert.configurations()
    inside = molecule.hilbert.contains(n)
    some = torch.cat([molecule.peak[None], n[~inside][:1]])
    np.savez(tmp_path / "list.npz", configurations=some.numpy(), amplitudes=np.array([0.9, 0.1]))
    with pytest.raises(ValueError, match="--no-parities"):
        read_determinants(tmp_path / "list.npz", molecule)
    np.savez(tmp_path / "list.npz", configurations=some.numpy(), amplitudes=np.array([0.9, 1e-5]))
    assert len(read_determinants(tmp_path / "list.npz", molecule).configurations) == 1
