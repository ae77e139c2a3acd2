"""FCIDUMP files: integrals of a molecule as text, written by most programs of quantum chemistry.

A namelist with the numbers of orbitals and electrons and 2 S^z, then lines "value p q r s", orbitals counted from 1:
(pq|rs) in chemists' notation; h_pq where r = s = 0; orbital energies where q = r = s = 0, which are ignored; the core
energy where all are 0. Integrals that are not listed are 0. Knowles and Handy, Comput. Phys. Commun. 54, 75 (1989).

Unrestricted orbitals (IUHF or UHF in the namelist): six blocks that lines "0.0 0 0 0 0" end, (pq|rs) of up-up,
down-down, up-down, h of up and of down, and the core energy (the format of Molpro).
"""

import gzip
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nqs.hamiltonians.integrals import SYMMETRIC, Integrals, pair_numbers, pairs

MAX_ORBITALS = 512  # (pq|rs) of more would need over 130 GB


class FcidumpContents(NamedTuple):
    """Contents of a file."""

    integrals: Integrals
    n_up: int
    n_down: int
    irreps: tuple[int, ...] | None  # ORBSYM, where the file has one for each orbital


def read_fcidump(path: str | Path) -> FcidumpContents:
    """The integrals and electron numbers of a file, which may be compressed by gzip.

    ORBSYM is not needed: symmetries are found from the integrals that vanish (nqs.hamiltonians.orbital_parities).

    Raises:
        ValueError: no such file, no FCIDUMP, a truncated one, complex integrals, or impossible electron numbers.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    header, body = _split(raw.decode("latin-1"), path)
    n_orbitals, n_electrons, twice_sz = (
        _integer(header, name, default, path) for name, default in (("NORB", None), ("NELEC", None), ("MS2", 0))
    )
    if not 1 <= n_orbitals <= MAX_ORBITALS:
        raise ValueError(f"{path}: NORB={n_orbitals}: 1 to {MAX_ORBITALS} orbitals are supported.")
    n_up, n_down = electron_numbers(n_electrons, twice_sz, n_orbitals, f"{path}: NELEC={n_electrons}, MS2={twice_sz}")
    values, indices = _table(body, n_orbitals, path)
    unrestricted = re.search(r"\bI?UHF\s*=\s*(\.?T|1)", header, re.IGNORECASE) is not None
    integrals = _unrestricted(values, indices, n_orbitals, path) if unrestricted else _restricted(
        values, indices, n_orbitals, path
    )  # fmt: skip
    found = re.search(r"ORBSYM\s*=\s*([-\d\s,*]+)", header, re.IGNORECASE)
    orbsym = [int(text) for text in re.findall(r"(?<!\*)-?\b\d+\b(?!\*)", found.group(1))] if found else []
    irreps = tuple(orbsym) if len(orbsym) == n_orbitals and min(orbsym) >= 1 else None
    return FcidumpContents(integrals, n_up, n_down, irreps)


def write_fcidump(path: str | Path, integrals: Integrals, n_up: int, n_down: int) -> None:
    """Write a file that `read_fcidump` and other programs read; compressed if its name ends with .gz."""
    M, unrestricted = integrals.n_orbitals, not integrals.is_restricted
    lines = [f" &FCI NORB={M},NELEC={n_up + n_down},MS2={n_up - n_down},"]
    lines += [f"  ORBSYM={'1,' * M}", "  ISYM=1,", *(["  IUHF=1,"] if unrestricted else []), " &END"]
    p, q = pairs(M)
    end = [f"{0.0:23.16E} 0 0 0 0"] if unrestricted else []
    for block, matrix in enumerate(integrals.two_body):
        rows, columns = (np.indices(matrix.shape).reshape(2, -1)) if block == 2 else np.tril_indices(len(matrix))
        for r, c in zip(rows, columns, strict=True):
            if matrix[r, c]:
                lines.append(f"{matrix[r, c]:23.16E} {p[r] + 1} {q[r] + 1} {p[c] + 1} {q[c] + 1}")
        lines += end
    for h in integrals.one_body:
        lines += [f"{h[i, j]:23.16E} {i + 1} {j + 1} 0 0" for i, j in zip(p, q, strict=True) if h[i, j]]
        lines += end
    lines.append(f"{integrals.core:23.16E} 0 0 0 0")
    text = ("\n".join(lines) + "\n").encode()
    Path(path).write_bytes(gzip.compress(text) if str(path).endswith(".gz") else text)


def electron_numbers(n_electrons: int, twice_sz: int, n_orbitals: int, given: str) -> tuple[int, int]:
    """Numbers of up and down electrons.

    Args:
        given: beginning of the message.

    Raises:
        ValueError: impossible for so many orbitals, or a spin that the number of electrons cannot have.
    """
    if not 0 <= n_electrons <= 2 * n_orbitals:
        raise ValueError(
            f"{given}: {n_orbitals} orbitals hold 0 to {2 * n_orbitals} electrons. Is the number of electrons that of "
            "the active space?"
        )
    n_up, odd = divmod(n_electrons + twice_sz, 2)
    if odd or not 0 <= n_up <= n_electrons or max(n_up, n_electrons - n_up) > n_orbitals:
        most = min(n_electrons, 2 * n_orbitals - n_electrons)
        raise ValueError(
            f"{given}: {n_electrons} electrons in {n_orbitals} orbitals can have 2 S^z = {-most} to {most} in steps of "
            f"2, not {twice_sz}."
        )
    return n_up, n_electrons - n_up


def _split(text: str, path: Path) -> tuple[str, str]:
    """The namelist and what follows."""
    if "&FCI" not in text.upper():
        raise ValueError(f'{path} is no FCIDUMP: it must begin with the namelist "&FCI NORB=..., NELEC=..., MS2=...,".')
    end = re.search(r"&END|^\s*/|/\s*$|\$END", text, re.IGNORECASE | re.MULTILINE)
    if end is None:
        raise ValueError(f'{path}: the namelist has no end ("&END" or "/"): the file is truncated.')
    return text[: end.start()], text[end.end() :]


def _integer(header: str, name: str, default: int | None, path: Path) -> int:
    found = re.search(rf"\b{name}\s*=\s*(-?\d+)", header, re.IGNORECASE)
    if found is None and default is None:
        raise ValueError(f"{path}: the namelist does not give {name}.")
    return int(found.group(1)) if found is not None else int(default or 0)


def _table(body: str, n_orbitals: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and orbital numbers of all lines, checked."""
    if "(" in body:
        raise ValueError(
            f"{path} has complex integrals: integrals over real orbitals are needed, without spin-orbit coupling or a "
            "magnetic field."
        )
    words = re.sub(r"[dD](?=[+-]?\d)", "e", body).split()
    lines = [line for line in body.splitlines() if line.strip()]
    lengths = {len(line.split()) for line in lines}
    if lengths - {5}:
        number, wrong = next((k, line) for k, line in enumerate(lines) if len(line.split()) != 5)
        last = " The file is truncated." if number == len(lines) - 1 else ""
        raise ValueError(f"{path}: {wrong.strip()[:60]!r} is no line 'value p q r s'.{last}")
    try:
        table = np.array(words, dtype=np.float64).reshape(-1, 5)
        indices = table[:, 1:].astype(np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None
    values = table[:, 0]
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: an integral is {values[~np.isfinite(values)][0]}.")
    if len(indices) and (indices.min() < 0 or indices.max() > n_orbitals):
        raise ValueError(f"{path} has the orbital {indices.max()}, but NORB={n_orbitals}.")
    if not len(indices) or (indices[-1].any() and not (indices == 0).all(1).any()):
        raise ValueError(f"{path} has no core energy, a line with the orbitals 0 0 0 0: the file is truncated.")
    return values, indices


def _restricted(values: np.ndarray, indices: np.ndarray, M: int, path: Path) -> Integrals:
    core = values[(indices == 0).all(1)].sum()
    h, v = _matrices(values, indices, M, path, symmetric=True)
    if not (indices[:, 1].astype(bool) & (indices[:, 2] == 0)).any():
        raise ValueError(f"{path} has no one-electron integrals, lines with the orbitals p q 0 0: it is truncated.")
    return Integrals(core=float(core), one_body=h[None], two_body=v[None])


def _unrestricted(values: np.ndarray, indices: np.ndarray, M: int, path: Path) -> Integrals:
    ends = np.flatnonzero((indices == 0).all(1))
    if len(ends) != 6:
        raise ValueError(
            f"{path}: unrestricted orbitals need six blocks, each ended by '0.0 0 0 0 0' and the last by the core "
            f"energy; found {len(ends)}."
        )
    blocks = np.split(np.arange(len(values)), ends + 1)
    found = [
        _matrices(values[block[:-1]], indices[block[:-1]], M, path, symmetric=number != 2)
        for number, block in enumerate(blocks[:6])
    ]
    return Integrals(
        core=float(values[ends[-1]]),
        one_body=np.stack([found[3][0], found[4][0]]),
        two_body=np.stack([found[0][1], found[1][1], found[2][1]]),
    )


def _matrices(
    values: np.ndarray, indices: np.ndarray, M: int, path: Path, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """h and (pq|rs) of lines; `symmetric`: (pq|rs) = (rs|pq)."""
    numbers, T = pair_numbers(M), M * (M + 1) // 2
    h, v = np.zeros((M, M)), np.zeros((T, T))
    two = (indices > 0).all(1)
    one = (indices[:, :2] > 0).all(1) & (indices[:, 2:] == 0).all(1)
    ignored = (indices[:, 1:] == 0).all(1)
    if not (two | one | ignored).all():
        wrong = indices[~(two | one | ignored)][0]
        raise ValueError(f"{path} has an integral with the orbitals {' '.join(map(str, wrong))}, which is none.")
    p, q = (indices[one] - 1)[:, :2].T
    h[p, q] = h[q, p] = values[one]
    p, q, r, s = (indices[two] - 1).T
    left, right = numbers[p, q], numbers[r, s]
    v[left, right] = values[two]
    if symmetric:
        v[right, left] = values[two]
    different = np.abs(v[left, right] - values[two])
    if len(different) and different.max() > SYMMETRIC * max(1.0, np.abs(v).max()):
        k = int(different.argmax())
        raise ValueError(
            f"{path} gives two values for ({p[k] + 1} {q[k] + 1} | {r[k] + 1} {s[k] + 1}), {values[two][k]:g} and "
            f"{v[left[k], right[k]]:g}: orbitals must be real."
        )
    return h, v
