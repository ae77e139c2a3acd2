"""The check at the door: mistakes in a Hamiltonian of one's own are named, whatever the size of its sector."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import exact_steps
from torch import Tensor, nn

from nqs import VMC, exact
from nqs.estimators.hamiltonian_check import WHOLE, SampleCheck, check_hamiltonian
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.hamiltonians.local_terms import LocalTerms
from nqs.hamiltonians.netket.operator import NetKetOperator
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain, triangular
from nqs.protocols import AutoregressiveWavefunction, Conditionals, Connected, Hamiltonian, LogPsi
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry import Symmetry, symmetries_of, translations

SMALL, LARGE = BoseHubbard(chain(4), 4, U=4.0, n_max=3), BoseHubbard(chain(12), 12, U=4.0, n_max=3)


@dataclass
class Changed:
    """A right Hamiltonian, of which something is changed."""

    right: BoseHubbard
    change: Callable[[Tensor, Connected], Connected] = lambda n, c: c
    of_diagonal: Callable[[Tensor], Any] = lambda x: x

    @property
    def hilbert(self) -> HilbertSpace:
        return self.right.hilbert

    def diagonal(self, n: Tensor) -> Any:
        return self.of_diagonal(self.right.diagonal(n))

    def connected(self, n: Tensor) -> Connected:
        return self.change(n, self.right.connected(n))


def outside(n: Tensor, c: Connected) -> Connected:
    m = c.configurations.clone()
    m[:, 0] = 0
    return c._replace(configurations=m)


def beyond_the_cutoff(n: Tensor, c: Connected) -> Connected:
    m = c.configurations.clone()
    m[:, 0] = 200
    return c._replace(configurations=m)


def one_way(n: Tensor, c: Connected) -> Connected:
    kept = c.configurations[:, 0] <= n[c.parents, 0]
    return Connected(c.configurations[kept], c.elements[kept], c.parents[kept])


def itself(n: Tensor, c: Connected) -> Connected:
    return c._replace(configurations=n[c.parents])


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "outside": ({"change": outside}, "leaves the sector.*other conserved charges"),
    "cutoff": ({"change": beyond_the_cutoff}, r"leaves the sector.*beyond the largest one \(the cutoff\)"),
    "one way": ({"change": one_way}, "is not Hermitian.*Add the Hermitian conjugate"),
    "phase": ({"change": lambda n, c: c._replace(elements=c.elements * (1 + 0.1j))}, "is not Hermitian"),
    "nan": ({"change": lambda n, c: c._replace(elements=c.elements * float("nan"))}, "is not finite"),
    "parents": ({"change": lambda n, c: c._replace(parents=c.parents - 1)}, "parent -1 is no row"),
    "lengths": ({"change": lambda n, c: c._replace(elements=c.elements[1:])}, "elements and .* parents"),
    "dtype": ({"change": lambda n, c: c._replace(configurations=c.configurations.long())}, "uint8 of shape"),
    "itself": ({"change": itself}, "for itself: what belongs to <n|H|n>"),
    "half precision": ({"change": lambda n, c: c._replace(elements=c.elements.half())}, "elements as torch.float16"),
    "single precision": (
        {"change": lambda n, c: c._replace(elements=c.elements.float())},
        r"elements as torch\.float32: give float64 or complex128",
    ),
    "integers": ({"change": lambda n, c: c._replace(elements=-torch.ones_like(c.elements).long())}, r"torch\.int64"),
    "complex64": ({"change": lambda n, c: c._replace(elements=c.elements.to(torch.complex64))}, r"torch\.complex64"),
    "diagonal of integers": ({"of_diagonal": lambda x: x.long()}, r"diagonal returned torch\.int64: give float64"),
    "diagonal in single precision": ({"of_diagonal": lambda x: x.float()}, r"diagonal returned torch\.float32"),
    "parents too large": ({"change": lambda n, c: c._replace(parents=c.parents + 1)}, r"parent \d+ is no row"),
    "listed twice": ({"change": lambda n, c: Connected(*(torch.cat([x, x[:1]]) for x in c))}, "is not Hermitian"),
    "infinite diagonal": ({"of_diagonal": lambda x: x / 0}, "<n|H|n> = .* is not finite"),
    "complex diagonal": ({"of_diagonal": lambda x: x + 1j}, "real number for each configuration"),
    "plain tuple": ({"change": lambda n, c: tuple(c)}, r"must return nqs\.protocols\.Connected"),
    "parents as floats": ({"change": lambda n, c: c._replace(parents=c.parents.double())}, "parents of shape .*int64"),
    "matrix of elements": ({"change": lambda n, c: c._replace(elements=c.elements[:, None])}, "elements of shape"),
    "shape of the diagonal": ({"of_diagonal": lambda x: x[:, None]}, r"shape \(\d+,\)"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("right", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(right: BoseHubbard, changes: dict[str, Any], message: str) -> None:
    assert (right.hilbert.dimension <= WHOLE) == (right is SMALL)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        check_hamiltonian(Changed(right, **changes))


@pytest.mark.usefixtures("unchecked")
def test_the_check_is_at_the_door_of_vmc_and_exact_work() -> None:
    wrong: Any = Changed(SMALL, change=one_way)
    with pytest.raises(ValueError, match="not Hermitian"):
        exact.ground_state(wrong)
    with pytest.raises(ValueError, match="not Hermitian"):
        VMC(wrong, small_transformer(width=4, layers=2, heads=1).build(SMALL.hilbert))


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_claim_of_a_positive_ground_state_is_refused() -> None:
    wrong: Any = Changed(SMALL, change=lambda n, c: c._replace(elements=-c.elements))
    check_hamiltonian(wrong)
    wrong.is_stoquastic = True
    with pytest.raises(ValueError, match=r"is_stoquastic is True, but <n.H.n'> = "):
        check_hamiltonian(wrong)


@pytest.mark.usefixtures("unchecked")
def test_elements_that_are_listed_in_parts_are_right() -> None:
    def halves(n: Tensor, c: Connected) -> Connected:
        m, elements, parents = c
        return Connected(torch.cat([m, m]), torch.cat([elements, elements]) / 2, torch.cat([parents, parents]))

    check_hamiltonian(Changed(SMALL, change=halves))


LATTICE = chain(5)
RIGHT: list[Hamiltonian] = [
    BoseHubbard(LATTICE, 4, U=3.0, phases=[0.3] * 5),
    Heisenberg(LATTICE, None, J=(1.0, 0.4), h=0.2, spin=1),
    Heisenberg(chain(30), 0.0),
    Ising(LATTICE, h=0.7, g=0.1),
    FermiHubbard(LATTICE, 3, 2, U=4.0, t2=-0.3, twist=[0.7]),
    FermiHubbard(chain(14), 7, 7, U=8.0),
    TV(LATTICE, 2, V=1.5),
    TJ(LATTICE, 2, 2, J=0.4),
]


@pytest.mark.parametrize("hamiltonian", RIGHT, ids=str)
def test_every_family_passes(hamiltonian: Hamiltonian) -> None:
    check_hamiltonian(hamiltonian)


def wrong_everywhere(hamiltonian: Any) -> dict[str, Callable[[], Any]]:
    """All doors through which a Hamiltonian enters exact work and VMC."""
    model = small_transformer(width=4, layers=2, heads=1).build(hamiltonian.hilbert)
    ring = translations(chain(4), hamiltonian.hilbert)

    def steps() -> Any:
        samples = ExhaustiveSampler().build(model).sample(torch.Generator())
        return exact_steps().objective(hamiltonian).local(model, samples)

    class Uniform:
        def amplitude(self, n: Tensor) -> Tensor:
            return torch.ones(len(n), dtype=torch.float64)

    return {
        "ground state": lambda: exact.ground_state(hamiltonian),
        "levels": lambda: exact.lowest(hamiltonian, 2),
        "matrix": lambda: exact.sparse_matrix(hamiltonian),
        "exact steps": steps,
        "projected energies": lambda: exact.projected_energies(hamiltonian, ring, [Uniform()]),
        "VMC": lambda: VMC(hamiltonian, model),
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_the_check_is_at_every_door(changes: dict[str, Any], message: str) -> None:
    for door in wrong_everywhere(Changed(SMALL, **changes)).values():
        with pytest.raises(ValueError, match=f"(?s){message}"):
            door()


# ---- on samples of every step ------------------------------------------------------------------------------------


def one_corner(n: Tensor, c: Connected) -> Connected:
    """Hops that end with three bosons on site 0 are one-way: few configurations show it."""
    kept = c.configurations[:, 0] < 3
    return Connected(c.configurations[kept], c.elements[kept], c.parents[kept])


@pytest.mark.usefixtures("unchecked")
def test_steps_check_their_own_samples() -> None:
    wrong: Any = Changed(LARGE, change=one_corner)
    n = LARGE.hilbert.random(4096, torch.Generator().manual_seed(0))
    corner = n[n[:, 0] == 3][:1]
    SampleCheck(LARGE, symmetries_of(LARGE)).check(n)

    def checked(hamiltonian: Any, symmetry: Symmetry | None) -> None:
        check = SampleCheck(hamiltonian, symmetry)
        for _ in range(20):
            check.check(corner)

    with pytest.raises(ValueError, match=r"is not Hermitian.*for n = \["):
        checked(wrong, None)
    tilted: Any = Changed(LARGE, of_diagonal=lambda x: x)
    tilted.diagonal = lambda n: LARGE.diagonal(n) + 0.1 * (n[:, 0] == 3)
    with pytest.raises(ValueError, match=r"not have the symmetry of the wavefunction.*n = \[.*the permutation \("):
        checked(tilted, translations(chain(12), LARGE.hilbert))


def test_the_check_of_samples_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    check, calls = SampleCheck(LARGE, None), []
    monkeypatch.setattr(check, "check", lambda n: calls.append(n))
    for _ in range(500):
        check(LARGE.hilbert.random(1, torch.Generator()))
    assert 1 <= len(calls) <= 6  # one unit of time each, of 500


# ---- the model ---------------------------------------------------------------------------------------------------


class ProductState(AutoregressiveWavefunction[Any]):
    """Independent sites in a sector, as a user might write it; `spoil` makes mistakes."""

    def __init__(self, hilbert: HilbertSpace, spoil: str = "") -> None:
        super().__init__()
        self.hilbert, self.has_phase, self.spoil = hilbert, True, spoil
        self.logits = nn.Parameter(torch.linspace(0, 1, hilbert.local_dim, dtype=torch.float64))

    @property
    def bytes_per_configuration(self) -> int:
        return 64 * self.hilbert.n_sites

    def _next(self, site: Any, remainder: Tensor) -> Conditionals:
        mask = self.hilbert.tables("cpu").log_uniform[site, remainder]
        logits = self.logits + (0 * mask.nan_to_num(neginf=0.0) if self.spoil == "mask" else mask)
        log_p = logits.log_softmax(-1)
        phase = torch.zeros_like(log_p) + (float("nan") if self.spoil == "phase" else 0.2)
        return Conditionals(log_p + 0.1 if self.spoil == "norm" else log_p, phase)

    def conditionals(self, n: Tensor) -> Conditionals:
        return self._next(torch.arange(self.hilbert.n_sites), self.hilbert.remainders(n))

    def start(self, batch: int) -> Any:
        return 0, torch.full((batch,), self.hilbert.start)

    def step(self, tokens: Tensor | None, state: Any) -> tuple[Conditionals, Any]:
        site, remainder = state
        if tokens is not None:
            remainder = self.hilbert.tables("cpu").after(site - 1, remainder, tokens.long())
        found = self._next(site, remainder)
        if self.spoil == "step":
            found = Conditionals(found.log_p.flip(-1), found.phase)
        return found, (site + 1, remainder)

    def log_psi(self, n: Tensor) -> LogPsi:
        log_modulus, phase = super().log_psi(n)
        return LogPsi(2 * log_modulus if self.spoil == "log_psi" else log_modulus, phase)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("norm", r"not normalised.*site 0 sum to 1\.105"),
        ("mask", r"leaves the sector: after \[.*\] it gives the local state"),
        ("phase", r"has the phase nan at site 0"),
        ("step", r"ProductState\.step differs from `conditionals` at site 0"),
        ("log_psi", r"ProductState\.log_psi differs from half the sum of the log conditionals"),
    ],
)
def test_a_model_of_ones_own_is_checked(spoil: str, message: str) -> None:
    VMC(SMALL, ProductState(SMALL.hilbert))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        VMC(SMALL, ProductState(SMALL.hilbert, spoil))


# ---- operators of NetKet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_netket_operator_that_is_not_finite_is_refused(number: float) -> None:
    nk = pytest.importorskip("netket")
    graph, space = nk.graph.Chain(4), nk.hilbert.Spin(0.5, 4)
    for operator in (
        nk.operator.Ising(space, graph, h=number),
        nk.operator.PauliStrings(space, ["XXII", "ZIII"], [number, 1.0]),
        nk.operator.LocalOperator(space, np.array([[number, 0], [0, 1.0]]), [0]),
    ):
        with pytest.raises(ValueError, match=r"has the element .*(nan|inf).*give finite couplings"):
            NetKetOperator.from_netket(operator)
    with pytest.raises(ValueError, match="not finite"):
        LocalTerms(entries=(((0,), (1,), number, 0.0),), modes=((0,),), coefficients=(1.0,))


def test_a_full_lattice_has_no_elements_to_check() -> None:
    """No hop is possible: the list of elements, complex because of a twist, is empty, and stoquastic."""
    full = TJ(triangular(3, 3), 8, 1, J=0.0, twist=(0.0, 0.1))
    assert full.is_stoquastic
    assert len(full.connected(full.hilbert.configurations()).elements) == 0
    check_hamiltonian(full)
