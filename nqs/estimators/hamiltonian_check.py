"""One check of a Hamiltonian before any work starts: it stays in its sector, is Hermitian and finite.

Terms that leave the sector would be dropped without a word, and a matrix that is not Hermitian has two different
"energies". Every configuration is checked where the sector is small, else random ones with all that they lead to; then
the steps of a run check some of their samples, and the symmetry of the state as well.
"""

# Shapes: B configurations, L sites, K connected configurations.
import time

import torch
from jaxtyping import UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace, excluded_pairs
from nqs.protocols import Connected, Hamiltonian, is_stoquastic, max_connected
from nqs.samples import Lookup, distinct
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import named, violation

WHOLE = 2**12  # dimension up to which every row is checked
ROWS, COLUMNS = 32, 512  # random rows, and connected configurations whose rows are checked in turn, in larger sectors
LEAST_ROWS, ENTRIES = 4, 2**25  # of large lattices as many as have so many local states in all that they lead to
HERMITIAN = 1e-10  # relative difference of two elements that count as conjugates
PRECISE = (torch.float64, torch.complex128)  # of elements; diagonals are real
IN_A_STEP, TIME_FRACTION = 4, 0.005  # samples that a step checks, and fraction of the time of a run that this may take


def check_hamiltonian(hamiltonian: Hamiltonian) -> None:
    """
    Raises:
        ValueError: what `diagonal` or `connected` return has another shape or dtype than the contract says, is not
            finite, leaves the sector, or is not Hermitian; with an example.
    """
    hilbert, name = hamiltonian.hilbert, type(hamiltonian).__name__
    affordable = max(LEAST_ROWS, ENTRIES // (max_connected(hamiltonian) * hilbert.n_sites))
    if hilbert.dimension <= WHOLE:
        n = hilbert.configurations()
    else:
        n = hilbert.random(min(ROWS, affordable), torch.Generator().manual_seed(0))
        n = n[distinct(hilbert, n)[0]]
    connected = _rows(hamiltonian, n, name)
    m = connected.configurations
    m = m[distinct(hilbert, m)[0]]
    if hilbert.dimension > WHOLE:
        m = m[torch.randperm(len(m), generator=torch.Generator().manual_seed(0))[: min(COLUMNS, affordable)]]
    back = _rows(hamiltonian, m, name)
    _check_hermitian(hilbert, n, connected, m, back, name)


def _rows(hamiltonian: Hamiltonian, n: Tensor, name: str) -> Connected:
    """Connected configurations of n; shapes, dtypes, finite numbers, the sector and signs are checked row by row."""
    hilbert = hamiltonian.hilbert
    diagonal = hamiltonian.diagonal(n)
    if not isinstance(diagonal, Tensor) or diagonal.is_complex() or diagonal.shape != (len(n),):
        found = f"{diagonal.dtype} of shape {tuple(diagonal.shape)}" if isinstance(diagonal, Tensor) else type(diagonal)
        raise ValueError(
            f"{name}.diagonal must return a real number for each configuration, shape ({len(n)},); found {found}. The "
            "diagonal of a Hermitian matrix is real."
        )
    if diagonal.dtype != torch.float64:
        raise ValueError(
            f"{name}.diagonal returned {diagonal.dtype}: give float64 (.double()), so that nothing is rounded or cut."
        )
    if not diagonal.isfinite().all():
        row = int((~diagonal.isfinite()).nonzero()[0, 0])
        raise ValueError(f"{name}: <n|H|n> = {diagonal[row].item()} is not finite for n = {n[row].tolist()}.")
    connected = hamiltonian.connected(n)
    if not isinstance(connected, Connected) or not all(isinstance(part, Tensor) for part in connected):
        raise ValueError(
            f"{name}.connected must return nqs.protocols.Connected(configurations, elements, parents), tensors."
        )
    m, elements, parents = connected
    if m.dtype != torch.uint8 or m.ndim != 2 or m.shape[1] != hilbert.n_sites:
        raise ValueError(
            f"{name}.connected must return configurations as uint8 of shape (K, {hilbert.n_sites}); found "
            f"{m.dtype} of shape {tuple(m.shape)}."
        )
    if elements.ndim != 1 or parents.ndim != 1 or parents.dtype != torch.int64:
        raise ValueError(
            f"{name}.connected must return elements of shape (K,) and parents of shape (K,), int64; found "
            f"{tuple(elements.shape)} and {parents.dtype} of shape {tuple(parents.shape)}."
        )
    if not len(m) == len(elements) == len(parents):
        raise ValueError(
            f"{name}.connected returned {len(m)} configurations, {len(elements)} elements and {len(parents)} parents: "
            "give one of each for every matrix element."
        )
    if elements.dtype not in PRECISE:
        raise ValueError(
            f"{name}.connected returned elements as {elements.dtype}: give float64 or complex128 (torch.full takes "
            "dtype=torch.float64), so that nothing is rounded or cut."
        )
    if len(parents) and not (int(parents.min()) >= 0 and int(parents.max()) < len(n)):
        wrong = parents[(parents < 0) | (parents >= len(n))][0].item()
        raise ValueError(f"{name}.connected: parent {wrong} is no row of the {len(n)} configurations that were given.")
    if not elements.isfinite().all():
        k = int((~elements.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"{name}: <n|H|n'> = {elements[k].item()} is not finite for n = {n[parents[k]].tolist()}, "
            f"n' = {m[k].tolist()}."
        )
    if len(elements) and is_stoquastic(hamiltonian) and (elements.is_complex() or bool((elements > 0).any())):
        k = int(elements.imag.abs().argmax() if elements.is_complex() else elements.argmax())
        raise ValueError(
            f"{name}.is_stoquastic is True, but <n|H|n'> = {elements[k].item():g} for n = {n[parents[k]].tolist()}, "
            f"n' = {m[k].tolist()}: off-diagonal elements must be real and negative for a positive state."
        )
    outside = (~hilbert.contains(m) & (elements != 0)).nonzero()[:, 0]
    if len(outside):
        k = int(outside[0])
        raise ValueError(
            f"{name} leaves the sector: it leads from {n[parents[k]].tolist()} to {m[k].tolist()} with the element "
            f"{elements[k].item():g}, which {_why(hilbert, m[k])}; the sector is {hilbert}. Leave that charge open "
            "(None) or that constraint out, or leave the term out."
        )
    same = (m == n[parents]).all(1).nonzero()[:, 0]
    if len(same):
        raise ValueError(
            f"{name}.connected lists {m[same[0]].tolist()} for itself: what belongs to <n|H|n> is returned by diagonal."
        )
    return Connected(m, elements, parents)


def _why(hilbert: HilbertSpace, n: Tensor) -> str:
    beyond = (n.cpu().long() >= torch.tensor(hilbert.local_dims)).nonzero()[:, 0]
    if len(beyond):
        return f"has a local state beyond the largest one (the cutoff) at site {int(beyond[0])}"
    for pair, excluded in excluded_pairs(hilbert.exclusions, hilbert.local_dim).items():
        if excluded[tuple(n[list(pair)].tolist())]:
            return f"has local states at the sites {pair} that exclude each other"
    return "has other conserved charges"


def _check_hermitian(hilbert: HilbertSpace, n: Tensor, there: Connected, m: Tensor, back: Connected, name: str) -> None:
    """<n|H|m> = <m|H|n>* for every pair of the rows n and m; elements that are listed twice are summed."""
    rows, columns = Lookup(hilbert, n), Lookup(hilbert, m)
    forward, backward = columns.rows(there.configurations), rows.rows(back.configurations)
    first = _summed(there.parents[forward >= 0] * len(m) + forward[forward >= 0], there.elements[forward >= 0])
    second = _summed(
        backward[backward >= 0] * len(m) + back.parents[backward >= 0], back.elements[backward >= 0].conj()
    )
    keys = torch.unique(torch.cat([first[0], second[0]]))
    a, b = (_at(keys, *found) for found in (first, second))
    scale = max((x.abs().max().item() for x in (a, b) if len(x)), default=0.0)
    wrong = ((a - b).abs() > HERMITIAN * scale).nonzero()[:, 0]
    if len(wrong):
        k = int(wrong[0])
        row, column = divmod(int(keys[k]), len(m))
        raise ValueError(
            f"{name} is not Hermitian: <n|H|n'> = {_number(a[k])}, but <n'|H|n> = {_number(b[k].conj())} for "
            f"n = {n[row].tolist()}, n' = {m[column].tolist()}. Add the Hermitian conjugate of every term."
        )


def _summed(keys: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
    found, place = torch.unique(keys, return_inverse=True)
    values = elements.to(torch.complex128)
    total = torch.zeros(len(found), dtype=torch.complex128, device=keys.device).index_add_(0, place, values)
    return found, total


def _at(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    if not len(keys):
        return torch.zeros(len(wanted), dtype=torch.complex128, device=wanted.device)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0)


def _number(value: Tensor) -> str:
    number = complex(value.item())
    return f"{number:g}" if number.imag else f"{number.real:g}"


class SampleCheck:
    """Checks a Hamiltonian, and that it has the symmetry of the state, on a few samples of each step.

    Steps without a check keep its part of the time below TIME_FRACTION; small sectors were checked as a whole before.

    Args:
        symmetry: of the wavefunction, None without one.
    """

    def __init__(self, hamiltonian: Hamiltonian, symmetry: Symmetry | None) -> None:
        self.hamiltonian, self.symmetry = hamiltonian, symmetry
        self._generator = torch.Generator().manual_seed(0)  # its own: the run's random numbers stay as they are
        self._begin, self._spent = time.perf_counter(), 0.0

    @torch.no_grad()
    def __call__(self, n: UInt8[Tensor, "U L"]) -> None:
        """
        Raises:
            ValueError: the Hamiltonian is not Hermitian or finite, leaves the sector, or lacks the symmetry.
        """
        begin = time.perf_counter()
        if self.hamiltonian.hilbert.dimension <= WHOLE or self._spent > TIME_FRACTION * (begin - self._begin):
            return
        self.check(n)
        self._spent += time.perf_counter() - begin

    def check(self, n: UInt8[Tensor, "U L"]) -> None:
        """The same, whatever time it takes."""
        hamiltonian, name = self.hamiltonian, type(self.hamiltonian).__name__
        n = n[torch.randint(len(n), (IN_A_STEP,), generator=self._generator).to(n.device)]
        n = n[distinct(hamiltonian.hilbert, n)[0]]
        connected = _rows(hamiltonian, n, name)
        m = connected.configurations
        if len(m):
            m = m[torch.randint(len(m), (IN_A_STEP,), generator=self._generator).to(n.device)]
            m = m[distinct(hamiltonian.hilbert, m)[0]]
            _check_hermitian(hamiltonian.hilbert, n, connected, m, _rows(hamiltonian, m, name), name)
        if self.symmetry is None:
            return
        element = torch.randint(self.symmetry.order, (len(n),), generator=self._generator).to(n.device)
        if wrong := violation(hamiltonian, self.symmetry, n, element):
            raise ValueError(
                f"{name} does not have the symmetry of the wavefunction: {wrong.what}, for n = {wrong.configuration} "
                f"and {named(self.symmetry, wrong.element)}. Use a model without this symmetry."
            )
