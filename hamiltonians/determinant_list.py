r"""Lists of determinants with amplitudes that other programs wrote, to start from.

Text, as Dice prints its most important determinants (printBestDeterminants) and block2 those of a matrix product state:
a line for each with a number that has a decimal point, and the orbitals as 0, a (or u), b (or d), 2, apart or together.

    0       0.9707012345   2 2 2 2 2   0 0
    1      -0.1203301234   2 2 2 a b   b a

Other lines are passed over; of several states ("State : 1") the first one is read. NPZ files of NumPy hold either

    configurations (D, M), occupations 0 empty, 1 up, 2 down, 3 both, and amplitudes (D,); or
    coefficients (A, B) with strings_up (A,) and strings_down (B,), integers whose bit p is the occupation of orbital p,
    as selected CI and full CI of PySCF have them.

The sign of a determinant depends on the order of its creation operators. Here all up ones come first (as in PySCF,
Quantum Package, newer Dice); others go from orbital to orbital, up before down (older Dice, block2), which differs by
(-1)^x, x the number of pairs of an up electron in a higher orbital than a down one. A list does not say which: taken is
the order with the lower energy of the listed state.
"""

# Shapes: D determinants, M orbitals, A and B strings of up and of down electrons.
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.estimators.selected import SelectedMatrix
from nqs.hamiltonians.molecule import Molecule

LOCAL_STATES = {"0": 0, "a": 1, "u": 1, "b": 2, "d": 2, "2": 3}
NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eEdD][+-]?\d+)?$|[+-]?\d+[eEdD][+-]?\d+$")
STATE = re.compile(r"\s*state\s*:?\s*(\d+)\s*$", re.IGNORECASE)
COMPARED = 5_000  # determinants with the largest amplitudes between which the orders are compared
ELSEWHERE = 1e-6  # weight of determinants of other parities up to which they are left out

Signs = Literal["auto", "separate", "interleaved"]


class DeterminantList(NamedTuple):
    """Distinct determinants of a sector and their amplitudes, normalised, the largest first.

    Attributes:
        configurations: (D, M).
        amplitudes: (D,), for the order of operators of this package.
    """

    configurations: UInt8[Tensor, "D M"]
    amplitudes: Float64[Tensor, " D"]


def read_determinants(
    path: str | Path, molecule: Molecule, *, signs: Signs = "auto", most: int = 50_000
) -> DeterminantList:
    """The list of a file for a molecule whose orbitals are those of the file, in this order.

    Args:
        signs: of the file: all up operators first ("separate"), from orbital to orbital ("interleaved"), or whatever
            gives the lower energy.
        most: determinants, those with the largest amplitudes.

    Raises:
        ValueError: no such file or no list in it; other numbers of orbitals or electrons; determinants of another
            sector; a state above its own determinant with the largest amplitude, as with orbitals in another order.
    """
    path = Path(path)
    try:
        M = molecule.integrals.n_orbitals
        n, amplitudes = _npz(path, M) if path.suffix == ".npz" else _text(path, M)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}.") from None
    _check(path, n, amplitudes, molecule)
    largest = np.argsort(-np.abs(amplitudes), kind="stable")[:most]
    n, amplitudes = n[largest], amplitudes[largest]
    inside = molecule.hilbert.contains(torch.from_numpy(n)).numpy()
    outside = 1 - (amplitudes[inside] ** 2).sum() / (amplitudes**2).sum()
    if outside > ELSEWHERE:
        raise ValueError(
            f"{path}: {int((~inside).sum())} of {len(n)} determinants, with the weight {outside:.3g}, have other "
            f"parities of orbital irreps than the sector: choose --no-parities (irreps='none')."
        )
    n, amplitudes = n[inside], amplitudes[inside] / np.linalg.norm(amplitudes[inside])
    if len(np.unique(n, axis=0)) < len(n):
        raise ValueError(f"{path}: a determinant is listed twice.")
    found = DeterminantList(torch.from_numpy(n), torch.from_numpy(amplitudes))
    return _with_signs(path, found, molecule, signs)


def interleaved_signs(n: UInt8[np.ndarray, "D M"]) -> Float64[np.ndarray, " D"]:
    """Sign of a determinant in the order from orbital to orbital relative to that with all up operators first."""
    up, down = (n & 1).astype(np.int64), (n >> 1).astype(np.int64)
    below = down.cumsum(1) - down
    return 1.0 - 2.0 * ((up * below).sum(1) % 2)


def _with_signs(path: Path, found: DeterminantList, molecule: Molecule, signs: Signs) -> DeterminantList:
    n, c = found
    turned = c * torch.from_numpy(interleaved_signs(n.numpy()))
    candidates = {"separate": c, "interleaved": turned}
    if signs != "auto":
        candidates = {signs: candidates[signs]}
    some = n[:COMPARED]
    matrix = SelectedMatrix(molecule)
    matrix.extend(some)
    energies = {name: matrix.expectation(_normalised(x[: len(some)])) for name, x in candidates.items()}
    best = min(energies, key=lambda name: energies[name])
    alone = molecule.diagonal(n[:1]).item()
    if energies[best] > alone + 1e-8 * abs(alone):
        raise ValueError(
            f"{path}: the listed state has the energy {energies[best]:.6f} Hartree, above {alone:.6f} of its first "
            "determinant alone. Were the integrals the same, orbitals in the same order? Does the list have signs, "
            "and more determinants than a few?"
        )
    return DeterminantList(n, candidates[best])


def _normalised(c: Float64[Tensor, " D"]) -> np.ndarray:
    return (c / c.norm()).numpy()


def _check(path: Path, n: UInt8[np.ndarray, "D M"], amplitudes: Float64[np.ndarray, " D"], molecule: Molecule) -> None:
    M = molecule.integrals.n_orbitals
    if n.shape[1] != M:
        raise _other_orbitals(path, n.shape[1], M)
    numbers = np.stack([(n & 1).sum(1), (n >> 1).sum(1)], 1)
    wrong = (numbers != (molecule.n_up, molecule.n_down)).any(1)
    if wrong.any():
        line = int(wrong.argmax())
        up, down = numbers[line].tolist()
        raise ValueError(
            f"{path}: determinant {line + 1} has {up} up and {down} down electrons, the molecule {molecule.n_up} and "
            f"{molecule.n_down}: choose --spin {up - down} or --frozen as in the run that wrote the list."
        )
    if not np.isfinite(amplitudes).all() or not amplitudes.any():
        raise ValueError(f"{path}: amplitudes are not finite, or all 0.")


def _other_orbitals(path: Path, found: int, M: int) -> ValueError:
    return ValueError(
        f"{path}: determinants of {found} orbitals, the molecule has {M}. The list is one of the orbitals that are "
        "treated: without frozen ones (--frozen) and without those that stay empty (--active)."
    )


def _text(path: Path, M: int) -> tuple[UInt8[np.ndarray, "D M"], Float64[np.ndarray, " D"]]:
    rows: list[list[int]] = []
    amplitudes: list[float] = []
    state = first_state = other = None
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if header := STATE.match(line):
            state = int(header[1])
            first_state = state if first_state is None else first_state
            continue
        if state != first_state:
            continue
        parts = re.split(r"[\s=,:;|<>\[\]]+", line.strip())
        floats = [k for k, part in enumerate(parts) if NUMBER.match(part)]
        if not floats:
            continue
        orbitals = _orbitals(parts, floats[-1])
        if orbitals is None:
            continue
        if len(orbitals) != M:
            other = other or len(orbitals)
            continue
        where = f"{path}, line {number}"
        if len(floats) > 1:
            raise ValueError(f"{where}: {len(floats)} numbers before a determinant: real amplitudes are needed.")
        if "+" in orbitals or "-" in orbitals:
            raise ValueError(
                f"{where}: a configuration state function ({orbitals}): write determinants, 0, a, b, 2 for each "
                "orbital (block2: with the symmetry SZ)."
            )
        rows.append([LOCAL_STATES[letter] for letter in orbitals])
        amplitudes.append(float(re.sub("[dD]", "e", parts[floats[0]])))
    if not rows and other is not None:
        raise _other_orbitals(path, other, M)
    if not rows:
        raise ValueError(
            f"{path} lists no determinant: lines as '-0.1203  2 2 2 a b b a' are read, or an .npz file "
            "(nqs.hamiltonians.determinant_list)."
        )
    return np.array(rows, dtype=np.uint8), np.array(amplitudes)


def _orbitals(parts: list[str], number: int) -> str | None:
    """Letters of the orbitals, after the number or, as one word, before it; None if the line lists no determinant."""
    after = "".join(parts[number + 1 :]).lower()
    if after and not set(after) - {*LOCAL_STATES, "+", "-"}:
        return after
    before = parts[number - 1].lower() if number and not after else ""
    return before if len(before) > 1 and not set(before) - {*LOCAL_STATES, "+", "-"} else None


def _npz(path: Path, M: int) -> tuple[UInt8[np.ndarray, "D M"], Float64[np.ndarray, " D"]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name]) for name in file.files}
    if any(np.iscomplexobj(x) for x in arrays.values()):
        raise ValueError(f"{path}: complex amplitudes; real ones are needed.")
    if {"configurations", "amplitudes"} <= set(arrays):
        n, amplitudes = arrays["configurations"], arrays["amplitudes"].astype(np.float64)
        if n.ndim != 2 or amplitudes.shape != (len(n),) or n.min(initial=0) < 0 or n.max(initial=0) > 3 or not len(n):
            raise ValueError(
                f"{path}: configurations {n.shape} with values {n.min(initial=0)} to {n.max(initial=0)} and amplitudes "
                f"{amplitudes.shape}: they are (D, M), 0 to 3, and (D,)."
            )
        return n.astype(np.uint8), amplitudes
    if {"coefficients", "strings_up", "strings_down"} <= set(arrays):
        return _of_strings(path, arrays["coefficients"], arrays["strings_up"], arrays["strings_down"], M)
    raise ValueError(
        f"{path} has the arrays {sorted(arrays)}: give configurations and amplitudes, or coefficients, strings_up and "
        "strings_down (nqs.hamiltonians.determinant_list)."
    )


def _of_strings(
    path: Path, coefficients: np.ndarray, up: np.ndarray, down: np.ndarray, M: int
) -> tuple[UInt8[np.ndarray, "D M"], Float64[np.ndarray, " D"]]:
    if coefficients.shape != (len(up), len(down)) or up.dtype.kind not in "iu" or down.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: coefficients {coefficients.shape}, strings_up {up.shape} of {up.dtype} and strings_down "
            f"{down.shape} of {down.dtype}: they are (A, B), and (A,) and (B,) integers."
        )
    highest = max(int(up.max(initial=0)).bit_length(), int(down.max(initial=0)).bit_length())
    if highest > M:
        raise _other_orbitals(path, highest, M)
    bits = np.arange(M)
    occupied = [(strings[:, None].astype(np.int64) >> bits & 1).astype(np.uint8) for strings in (up, down)]
    a, b = coefficients.nonzero()
    return occupied[0][a] | occupied[1][b] << 1, coefficients[a, b].astype(np.float64)
