"""The check at the door: mistakes in a Hamiltonian of one's own are named, whatever the size of its sector."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from nqs import VMC, exact
from nqs.estimators.hamiltonian_check import WHOLE, check_hamiltonian
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.protocols import Connected, Hamiltonian

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
        VMC(wrong, Transformer(SMALL.hilbert, width=4, heads=1))


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_claim_of_a_positive_ground_state_is_refused() -> None:
    wrong: Any = Changed(SMALL, change=lambda n, c: c._replace(elements=-c.elements))
    check_hamiltonian(wrong)
    wrong.is_stoquastic = True
    with pytest.raises(ValueError, match=r"is_stoquastic is True, but <n.H.n'> = "):
        check_hamiltonian(wrong)


@pytest.mark.usefixtures("unchecked")
def test_elements_that_are_listed_in_parts_or_as_integers_are_right() -> None:
    def halves(n: Tensor, c: Connected) -> Connected:
        m, elements, parents = c
        return Connected(torch.cat([m, m]), torch.cat([elements, elements]) / 2, torch.cat([parents, parents]))

    check_hamiltonian(Changed(SMALL, change=halves))
    check_hamiltonian(Changed(SMALL, of_diagonal=lambda x: x.long()))


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
