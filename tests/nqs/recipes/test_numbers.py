"""nqs.recipes is the only place with numbers of the method: configurations have no defaults that a plan relies on.

Defaults that are left are values that switch something off or leave it as it usually is, seeds, and limits of memory
and of solvers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any
from unittest.mock import patch

import pytest
from networks import small_determinant, small_group_convolutional, small_transformer

from nqs import models, optimisation, recipes, samplers
from nqs.archive.serialise import to_plain
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg, Ising, Molecule
from nqs.lattice import chain, square
from nqs.protocols import Hamiltonian
from nqs.symmetry import Symmetry

# By name of the field: off, one, or no preference.
NEUTRAL: Mapping[str, float] = {
    "momentum": 0.0,  # stochastic reconfiguration without
    "second_moments": 0.0,
    "temperature": 0.0,  # no annealing
    "seed": 0,
    "power": 1.0,  # conditionals as they are
    "n_tries": 1,  # plain Metropolis-Hastings
    "sites": 2,  # of a move that conserves charges, the fewest
    "initial_logits": 1.0,  # in units of the usual ones
    "initial_phases": 1.0,
    "determinants": 1,  # no sum of them
    "exponentials": 1,
    "mlp_ratio": 2,  # of all networks and recipes: the shape of a block
}
STATED = {"initial_phases", "determinants", "exponentials", "mlp_ratio"}  # neutral, but recipes choose a number
# Properties of an algorithm, which no recipe chooses: of the solver, and of the deal to ranks (nqs.samplers.decoding).
PROPERTIES = {"dense_rows", "solver_tolerance", "solver_iterations", "groups"}
LIMITS = {"max_dimension", "max_frontier"}  # of memory


def configurations(*packages: Any) -> list[type]:
    items = [getattr(package, name) for package in packages for name in package.__all__]
    return [item for item in items if isinstance(item, type) and is_dataclass(item)]


def numeric_defaults(kind: Any) -> dict[str, float]:
    found = {}
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if isinstance(default, int | float) and not isinstance(default, bool):
            found[field.name] = default
    return found


@pytest.mark.parametrize("kind", configurations(models, optimisation, samplers), ids=lambda kind: kind.__name__)
def test_configurations_have_no_numbers_of_the_method(kind: type) -> None:
    found = {name: value for name, value in numeric_defaults(kind).items() if name not in PROPERTIES | LIMITS}
    assert found == {name: NEUTRAL.get(name) for name in found}, "numbers of the method belong to nqs.recipes"


TRIVIAL = Symmetry(permutations=((0,),), maps=((0, 1),), angles=(0.0,))
TRANSFORMER = recipes.NetworkOptions(network="transformer")
FEW_ELECTRONS = FermiHubbard(square(3, boundary="open"), 3, 2, U=8.0)
PLANS: Mapping[str, tuple[Hamiltonian, Mapping[str, Any]]] = {
    "bosons, exact": (BoseHubbard(chain(5), 5, U=4.0), {}),
    "bosons, warm-up": (BoseHubbard(chain(7), 7, U=4.0), {"symmetry": "none"}),
    "bosons, sampled": (BoseHubbard(chain(8), 8, U=4.0), {"sampled": True}),
    "bosons, chains": (BoseHubbard(square(4), 16, U=16.0), {}),
    "spins, exact": (Heisenberg(chain(8), 0.0), {}),
    "spins, averaged": (Ising(chain(20), h=1.0), {}),
    "spins, large": (Heisenberg(chain(30), 0.0), {"symmetry": "none"}),
    "spins, phases": (Heisenberg(square(6), 0.0, J=(1.0, 0.5)), {}),
    "electrons, exact": (FermiHubbard(chain(6), 2, 2, U=4.0), {}),
    "electrons, sampled": (FEW_ELECTRONS, {"symmetry": "none"}),
    "electrons, transformer": (FEW_ELECTRONS, {"sampled": True, "model": TRANSFORMER}),
    "electrons, peaked": (
        Molecule.from_lattice(FermiHubbard(chain(5), 2, 2, U=0.5), orbitals="hopping"), {"sampled": True},
    ),
}  # fmt: skip


def with_others(kind: Any) -> Callable[..., None]:
    """Its `__init__` with other numeric defaults, but for properties and neutral ones that recipes rely on."""
    init, kept = kind.__init__, PROPERTIES | {field.name for field in fields(kind) if not field.kw_only}
    kept |= {name for name, value in numeric_defaults(kind).items() if value == NEUTRAL.get(name)} - STATED
    others = {name: 2 * value for name, value in numeric_defaults(kind).items() if name not in kept}

    def built(self: Any, *args: Any, **given: Any) -> None:
        init(self, *args, **(others | given))

    return built


@contextmanager
def other_defaults(kinds: Iterable[type]) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(patch.object(kind, "__init__", with_others(kind)))
        yield


@pytest.mark.parametrize("name", PLANS)
def test_plans_do_not_depend_on_defaults_of_configurations(name: str) -> None:
    hamiltonian, options = PLANS[name]

    def planned() -> Any:
        found = recipes.plan(hamiltonian, device="cpu", threads=1, **options)
        return to_plain([found.stages, found.run, found.model, found.evaluation])

    def by_default() -> Any:
        networks = [small_transformer(), small_determinant(), small_group_convolutional(symmetry=TRIVIAL)]
        return [samplers.TreeSampler(n_samples=1), *networks]

    expected, before = planned(), by_default()
    with other_defaults(configurations(optimisation, samplers, models)):
        assert not any(a == b for a, b in zip(by_default(), before, strict=True))
        assert planned() == expected


def test_numbers_that_are_left_out_are_named() -> None:
    with pytest.raises(TypeError, match=r"learning_rate.*max_step"):
        optimisation.StochasticReconfiguration()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"learning_rate, n_updates of Proposal: .* give all three numbers"):
        samplers.Proposal(model=small_transformer(), n_first=10)
    with pytest.raises(TypeError, match=r"missing.*'width' and 'layers'"):
        models.TransformerConfig()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"missing.*'width' and 'layers'"):
        models.Transformer(FEW_ELECTRONS.hilbert)
