"""Configurations as plain data: every class survives JSON, and nothing outside the given table is ever built."""

import json
import math
import os
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from chains import importance, independence, metropolis, norm_constrained, quest, sequential, trained_alongside
from hypothesis import given
from networks import (
    small_convolutional,
    small_determinant,
    small_group_convolutional,
    small_rbm,
    small_transformer,
    small_vision,
)
from optimisers import first_order, natural_gradient

from nqs import hamiltonians, models, samplers
from nqs.archive.serialise import differences, digest, from_plain, to_plain
from nqs.hamiltonians import (
    TJ,
    TV,
    BoseHubbard,
    Family,
    FermiHubbard,
    Heisenberg,
    Integrals,
    Ising,
    LocalHamiltonian,
    LocalTerms,
    Molecule,
    NetKetOperator,
    OneElectron,
    Rydberg,
    harmonic_trap,
)
from nqs.hamiltonians.operators import diagonal, exchange, sminus, splus, sx
from nqs.hilbert import fermions, spins
from nqs.lattice import Lattice, chain, from_edges, honeycomb, hypercubic, kagome, square, triangular
from nqs.models import (
    HartreeFock,
    JastrowConfig,
    ListedState,
    MarshallSign,
    OnOrbits,
    ProductConfig,
    Projected,
    ProjectedDeterminant,
    SlaterDeterminant,
    Symmetrised,
)
from nqs.optimisation import StochasticReconfiguration, TorchOptimiser
from nqs.samplers import (
    ConnectedMoves,
    CoverageSampler,
    ExhaustiveSampler,
    GumbelSampler,
    LocalMoves,
    Proposal,
    Redraw,
    TreeSampler,
)
from nqs.symmetry import Symmetry, space_group, spin_flip, translations
from nqs.vmc import RunConfig
from nqs.vmc.continuation import known_types

TYPES = known_types() | {"RunConfig": RunConfig}
RING = chain(4)
INTEGRALS = Integrals.dense(0.7, np.diag([-1.2, -0.5]), np.einsum("pq,rs->pqrs", np.eye(2), np.eye(2)) / 2)
CONFIGURATIONS = [
    RING,
    translations(RING, spins(4, 0), momentum=(1,)),
    chain(3, boundary="antiperiodic"),
    square(3, 2, boundary=("open", "periodic")),
    hypercubic((2, 3, 2)),
    triangular(3),
    honeycomb(2),
    kagome(2),
    from_edges([(0, 1), (1, 2)]),
    BoseHubbard(RING, 4, U=4.0),
    BoseHubbard(RING, None, U=-1.5, J=0.5, V=0.25, mu=0.7, n_max=3),
    BoseHubbard(RING, 3, U=1.0, potential=harmonic_trap(RING, 0.1), phases=tuple(RING.twist_phases([0.3]).tolist())),
    FermiHubbard(RING, 2, 1, U=8.0, t2=-0.25, potential=(0.1, 0.0, -0.1, 0.2)),
    Heisenberg(RING, 0, J=0.5, Delta=1.5),
    sx(0) * sx(1) - 0.5j * (splus(1) * sminus(2) - sminus(1) * splus(2)) + diagonal(0, [0.1, -0.1]),
    LocalHamiltonian(spins(4, 0), sum(exchange(i, (i + 1) % 4) for i in range(4)), lattice=RING, name="ring"),
    Heisenberg(RING, 1.0, J=(1.0, 0.5), spin=1.0),
    Ising(RING, h=0.7),
    Family((Ising(RING, h=0.7), Ising(RING, h=1.0)), scales=(1.0, 2.0)),
    Rydberg(RING, Delta=0.4, V=2.0, blockade=1.0),
    TJ(RING, 1, 2, J=0.4),
    TV(RING, 2, V=1.5, mu=0.1, twist=(0.5,)),
    MarshallSign(sublattice=(0, 1, 0, 1)),
    INTEGRALS,
    Molecule(INTEGRALS, 1, 1, cutoff=1e-9, name="H2"),
    ListedState(configurations=np.array([[3, 0], [0, 3]], dtype=np.uint8), amplitudes=np.array([0.9, -0.1]), rest=0.01),
    small_transformer(heads=None, initial_logits=0.1),
    SlaterDeterminant(up=((0.6,), (0.8,)), down=((1.0,), (0.0,)), up_imaginary=((0.0,), (1e-17,))),
    small_transformer(seed=2, reference=MarshallSign(sublattice=(1, 0))),
    ProjectedDeterminant(
        determinant=SlaterDeterminant(up=((0.6,), (0.8,), (0.0,))),
        symmetry=translations(chain(3), fermions(3, 1), momentum=(1,), fermions=True),
        hilbert=fermions(3, 1),
    ),
    Symmetrised(
        base=small_transformer(),
        symmetry=space_group(RING, spins(4, 0)) @ spin_flip(spins(4, 0), odd=True),
    ),
    OnOrbits(base=small_transformer(), symmetry=space_group(RING, spins(4, 0))),
    small_transformer(width=24, layers=3, heads=3, mlp_ratio=4, phase="zero", dtype="float32", seed=7),
    small_determinant(orbitals=SlaterDeterminant(up=((0.6,), (0.8,))), determinants=2, spins="apart", dtype="mixed"),
    JastrowConfig(displacements=((0, 1), (1, 0)), initial=0.1),
    small_rbm(density=2, phase="zero"),
    small_convolutional(
        width=8, layers=1, displacements=((0, 1), (1, 0)), sites=(0, 1), reference=MarshallSign(sublattice=(0, 1))
    ),
    small_group_convolutional(
        symmetry=translations(RING, spins(4, 0)), reference=MarshallSign(sublattice=(0, 1, 0, 1))
    ),
    metropolis(n_samples=20, n_chains=4, powers=(0.5,)),
    ProductConfig(factors=(JastrowConfig(initial=0.01), small_determinant(width=0))),
    small_vision(patches=((0, 1), (2, 3)), displacements=((0, 1), (1, 0)), places=True),
    Projected(base=small_rbm(), symmetry=space_group(RING, spins(4, 0)), trained=(0,)),
    metropolis(n_samples=20, n_chains=4, n_steps=3, moves=(LocalMoves(sites=3), Redraw()), powers=(1.0, 0.5)),
    metropolis(n_samples=20, n_chains=4, moves=(ConnectedMoves(Heisenberg(RING, 0)),)),
    norm_constrained(n_samples=20, n_chains=4, step_size=2.0, p=1, n_tries=8, weighting="constant"),
    quest(n_samples=20, n_chains=4, proposal=trained_alongside(model=small_transformer(), power=0.5)),
    independence(n_samples=20, n_chains=4, proposal=Proposal(n_updates=0)),
    importance(n_samples=100, n_effective=10),
    sequential(n_samples=100, n_islands=10, resample_below=0.3, proposal=Proposal(power=0.5)),
    CoverageSampler(n_distinct=64, branches=2, given={0: 1}),
    LocalMoves(),
    Redraw(),
    ConnectedMoves(Heisenberg(RING, 0)),
    Proposal(),
    ExhaustiveSampler(),
    ExhaustiveSampler(max_dimension=100),
    TreeSampler(n_samples=10**12),
    TreeSampler(n_distinct=512, max_frontier=64),
    GumbelSampler(n_distinct=100),
    natural_gradient(),
    natural_gradient(learning_rate=0.1, momentum=0.9),
    first_order(),
    TorchOptimiser(name="SGD", learning_rate=1e-2, final_learning_rate=1e-300),
    RunConfig(annealing=0.5),
    RunConfig(steps=7, seed=3, temperature=1.5, annealing=1.0),
    RunConfig(total_minutes=3, annealing=0.5),
]


def through_json(value: Any, types: dict[str, type] = TYPES) -> Any:
    """What an archive gives back."""
    return from_plain(json.loads(json.dumps(to_plain(value))), types)


# ------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda config: type(config).__name__)
def test_every_configuration_survives_json(config: Any) -> None:
    back = through_json(config)
    assert type(back) is type(config)
    assert back == config
    assert differences(to_plain(back), json.loads(json.dumps(to_plain(config)))) == []


def test_every_configuration_class_is_round_tripped_above() -> None:
    public = {getattr(module, name) for module in (hamiltonians, models, samplers) for name in module.__all__}
    classes = {item for item in public if is_dataclass(item)}
    classes |= {Lattice, StochasticReconfiguration, Symmetry, TorchOptimiser}
    elsewhere = {NetKetOperator, LocalTerms, OneElectron, HartreeFock}  # below; the last one is a result
    assert classes - elsewhere <= {type(config) for config in CONFIGURATIONS}
    assert all(TYPES[kind.__name__] is kind for kind in classes)


def test_operator_of_netket_is_rebuilt_from_the_known_types() -> None:
    flip = LocalTerms(
        entries=(((0,), (1,), -1.0, 0.0), ((1,), (0,), -1.0, 0.0)), modes=((0,), (1,)), coefficients=(1.0, 0.5)
    )
    operator = NetKetOperator(spins(2), (flip,), ((0,), (1,)))
    assert through_json(operator) == operator


def test_molecules_keep_their_one_electron_quantities() -> None:
    given = OneElectron(
        atoms=("H", "He"),
        names=("dipole_moment", "mulliken_charges"),
        constants=(np.array([0.0, 0.1, 1.5]), np.array([1.0, 2.0])),
        matrices=(np.arange(12.0).reshape(3, 2, 2) / 7, -np.ones((2, 2, 2))),
    )
    back = through_json(Molecule(INTEGRALS, 1, 1, one_electron=given)).one_electron
    assert (type(back), back.atoms, back.names) == (OneElectron, given.atoms, given.names)
    for found, expected in zip(back.constants + back.matrices, given.constants + given.matrices, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, exclude_min=True, allow_infinity=False)


@given(
    n_sites=st.integers(1, 7), n_particles=st.integers(0, 5), U=numbers, J=numbers, V=numbers, mu=numbers,
    potential=st.none() | st.lists(numbers, min_size=7, max_size=7),
)  # fmt: skip
def test_hamiltonians_keep_every_bit_of_their_numbers(
    n_sites: int, n_particles: int, potential: list[float] | None, **couplings: float
) -> None:
    epsilon = None if potential is None else tuple(potential[:n_sites])
    h = BoseHubbard(chain(n_sites), n_particles, potential=epsilon, **couplings)
    back = through_json(h)
    assert back == h
    assert repr(back) == repr(h)  # also the sign of a zero


def options(kind: type, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[type, dict[str, Any]]]:
    """Not built in the strategy: executed annotations look at random items."""
    return st.tuples(st.just(kind), st.fixed_dictionaries(values))


@given(
    options(
        StochasticReconfiguration,
        learning_rate=positive,
        final_learning_rate=positive,
        diagonal_shift=positive,
        final_diagonal_shift=positive,
        max_step=positive,
        momentum=st.floats(0, 0.999),
        precision=st.sampled_from(["float64", "float32", "tf32"]),
    )
    | options(TreeSampler, n_samples=st.integers(1, 10**12), max_frontier=st.integers(1, 2**20))
    | options(GumbelSampler, n_distinct=st.integers(1, 2**40))
    | options(
        RunConfig,
        steps=st.integers(1, 10**9),
        seed=st.integers(-(2**63), 2**63 - 1),
        temperature=st.floats(0, 1e300),
        annealing=st.floats(1e-300, 1.0),
    )
)
def test_options_survive_json(config: tuple[type, dict[str, Any]]) -> None:
    kind, values = config
    assert through_json(kind(**values)) == kind(**values)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: (
        st.tuples(inner, inner) | st.dictionaries(st.text().filter(lambda key: key != "type"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(plain)
def test_plain_data_stays_as_it_is(value: Any) -> None:
    assert through_json(value) == value


def test_fields_that_the_constructor_does_not_take_are_left_out() -> None:
    @dataclass(frozen=True)
    class WithCache:
        U: float
        cache: dict[str, int] = field(default_factory=dict, init=False, compare=False)

    assert to_plain(WithCache(2.0)) == {"type": "WithCache", "U": 2.0}
    assert through_json(WithCache(2.0), {"WithCache": WithCache}) == WithCache(2.0)


# ---------------------------------------------------------------------------------------------------- refusals


def test_unknown_class_is_named_with_what_is_allowed() -> None:
    data = {"type": "Hubbard", "U": 4.0}
    with pytest.raises(ValueError, match=r"'Hubbard' is none of the classes .*\(BoseHubbard, Lattice\).* --module"):
        from_plain(data, {"Lattice": Lattice, "BoseHubbard": BoseHubbard})


def test_unknown_class_inside_another_is_refused() -> None:
    data = to_plain(BoseHubbard(RING, 4, U=4.0))
    data["lattice"]["type"] = "Crystal"
    with pytest.raises(ValueError, match="'Crystal' is none of the classes"):
        from_plain(data, TYPES)


@pytest.mark.parametrize(
    "name", ["os.system", "system", "eval", "builtins.exec", "subprocess.Popen", "Path", "TreeSampler.sample", "object"]
)
def test_nothing_outside_the_table_is_executed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "system", lambda *command: calls.append(command))
    with pytest.raises(ValueError, match=f"'{name}' is none of the classes"):
        from_plain({"type": name, "command": "touch pwned"}, TYPES)
    assert calls == []


@pytest.mark.parametrize("name", ["Tensor", "deque", "Transformer", "NaturalGradient", "cached_property", "coo_array"])
def test_only_dataclasses_are_built_even_if_the_table_holds_more(name: str) -> None:
    # known_types() lists every class that the modules import.
    with pytest.raises(ValueError, match=f"'{name}' is none of the classes") as error:
        from_plain({"type": name}, known_types() | {"deque": __import__("collections").deque})
    allowed = str(error.value).split("(")[1].split(")")[0].split(", ")
    assert "BoseHubbard" in allowed
    assert name not in allowed


@pytest.mark.parametrize("name", [None, 3, ["TreeSampler"], {"type": "TreeSampler", "n_samples": 3}])
def test_a_class_is_named_by_text_only(name: Any) -> None:
    with pytest.raises(ValueError, match="is none of the classes"):
        from_plain({"type": name, "n_samples": 3}, TYPES)


def test_wrong_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"TreeSampler cannot be built from .*'n_walkers': 8.*n_walkers"):
        from_plain({"type": "TreeSampler", "n_walkers": 8}, TYPES)


def test_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"GumbelSampler cannot be built from .*n_distinct"):
        from_plain({"type": "GumbelSampler"}, TYPES)


def test_impossible_values_give_the_reason_of_the_class() -> None:
    data = to_plain(BoseHubbard(RING, 4, U=4.0, n_max=2)) | {"n_particles": 9}
    with pytest.raises(ValueError, match="holds at most 8 bosons, but n_particles=9"):
        from_plain(data, TYPES)


@pytest.mark.parametrize(
    ("value", "kind"), [(torch.zeros(1, dtype=torch.bfloat16), "Tensor"), (np.float64(1.0), None), (1j, "complex"),
                        (math.sin, "builtin"), ({1, 2}, "set"), (b"bytes", "bytes"), (TreeSampler, "type"),
                        (np.array([1, None]), "ndarray"), (np.array(["text"]), "ndarray"),
                        (np.zeros(2, np.longdouble), "ndarray"), (np.array([np.datetime64("2026")]), "ndarray")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_with_its_type(value: Any, kind: str | None) -> None:
    if kind is None:  # a NumPy float is a float
        assert through_json(value) == value
        return
    with pytest.raises(TypeError, match=rf"(?s)\({kind}.*\) cannot be written to an archive: use dataclasses"):
        to_plain({"field": [value]})
    assert to_plain({"field": [value]}, strict=False)["field"][0] is value


@pytest.mark.parametrize("dtype", [np.dtype(code).name for code in "?bBhHiIqQefdFD"])
def test_arrays_come_back_bit_for_bit(dtype: str) -> None:
    random = np.random.default_rng(0)
    array = np.frombuffer(random.bytes(24 * np.dtype(dtype).itemsize), dtype)
    if dtype == "bool":
        array = random.random(24) < 0.5
    elif array.dtype.kind in "fc":  # nan has many bit patterns
        array = np.nan_to_num(array, nan=1.5) * np.array(1, dtype)
    for value in (array.reshape(2, 3, 4), array.reshape(4, 6).T, array[:1].reshape(()), array[:0]):
        back = through_json(value)
        assert (back.dtype, back.shape) == (value.dtype, value.shape)
        assert back.tobytes() == value.tobytes()
    tensor = torch.from_numpy(array.copy())
    np.testing.assert_array_equal(through_json(tensor), array)


def test_arrays_keep_what_is_not_finite_and_tensors_lose_their_gradients() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0])
    assert through_json(array).tobytes() == array.tobytes()
    assert through_json(array.astype(">f8")).tolist()[1:] == array.tolist()[1:]
    assert through_json(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert through_json(torch.tensor([1 + 2j]).conj()).tolist() == [1 - 2j]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "object"}, "an array of 'object': an archive holds bool, "),
        ({"dtype": ["i8"]}, r"an array of \['i8'\]"),
        ({"shape": [3]}, r"an array of shape \[3\] whose data are .*: they do not fit"),
        ({"shape": [-1]}, r"an array of shape \[-1\]: it must be a list of integers"),
        ({"shape": 2}, "an array of shape 2"),
        ({"data": [1, "2"]}, "they do not fit"),
        ({"data": [1, [2]]}, "they do not fit"),
        ({"data": [1, 2**70]}, "numbers out of its range"),
        ({"data": 5}, "they do not fit"),
    ],
)
def test_impossible_arrays_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(to_plain(np.array([1, 2])) | changed, {})


@dataclass(frozen=True, eq=False)
class Disordered:
    field: Any
    couplings: Any


def test_arrays_and_tensors_among_fields_come_back_as_what_they_were() -> None:
    random = np.random.default_rng(3)
    field, couplings = random.normal(size=7), torch.from_numpy(random.normal(size=(7, 7)).astype(np.complex64))
    back = through_json(Disordered(field, couplings), {"Disordered": Disordered})
    assert isinstance(back.field, np.ndarray)
    assert isinstance(back.couplings, torch.Tensor)
    assert back.couplings.dtype == torch.complex64
    np.testing.assert_array_equal(back.field, field)
    assert torch.equal(back.couplings, couplings)
    assert differences(to_plain(back), to_plain(Disordered(field, couplings))) == []
    earlier = to_plain(Disordered(field, couplings))  # version 0.2.0 did not mark tensors
    del earlier["couplings"]["tensor"]
    assert differences(earlier, to_plain(back)) == []


def test_arrays_in_configurations_are_bounded() -> None:
    value = np.zeros((1001, 1000))
    with pytest.raises(ValueError, match=r"shape \(1001, 1000\) .* at most 1,000,000 numbers in one array"):
        to_plain({"couplings": value})
    assert to_plain({"couplings": value}, strict=False)["couplings"] is value  # a run without an archive
    assert to_plain(value[:1000])["shape"] == [1000, 1000]


# ------------------------------------------------------------------------------------------ differences, digest


def test_differences_name_the_field_and_both_values() -> None:
    first = to_plain({"hamiltonian": BoseHubbard(RING, 4, U=4.0), "unit": "J"})
    second = to_plain({"hamiltonian": BoseHubbard(chain(5), 4, U=8.0), "unit": "J", "extra": 1})
    lines = differences(first, second)
    assert "hamiltonian.U: 4.0 / 8.0" in lines
    assert "hamiltonian.lattice.shape: [4] / [5]" in lines
    assert "extra: None / 1" in lines
    assert not any("unit" in line or "n_particles" in line for line in lines)


def test_differences_of_long_tables_are_brief() -> None:
    small, large = (translations(chain(L), spins(L)) for L in (40, 50))
    lines = differences(to_plain(small), to_plain(large))
    assert [line.split(":")[0] for line in lines] == ["permutations", "maps", "angles"]
    assert all("40 in all" in line and "50 in all" in line and len(line) < 400 for line in lines)


def test_differences_show_leaves_only() -> None:
    field = np.linspace(0, 1, 40)
    other, shifted = field.copy(), field + 1
    other[7] = np.nan
    one, two, three = (to_plain({"h": Disordered(values, None)}) for values in (field, other, shifted))
    assert differences(one, two) == [f"h.field.data[7]: {field[7]} / nan"]
    assert differences(two, json.loads(json.dumps(two))) == []  # nan is nan
    lines = differences(one, three)
    assert lines[0] == "h.field.data[0]: 0.0 / 1.0"
    assert lines[3:] == ["h.field.data: 40 of 40 entries differ"]
    old = {"warm_up": to_plain(TreeSampler(n_samples=10)), "initial": None}
    new = {"initial": {"from": "x" * 500}}
    lines = differences(old, new)
    assert lines == ["warm_up: TreeSampler(…) / None", "initial: None / (…)"]
    assert len(differences("x" * 500, "y")[0]) < 150
    assert differences({"a\nb": "c\nE = -99"}, {}) == ["a b: c E = -99 / None"]
    pairs = [{"edges": [[0, 1], [1, 2], [2, last]]} for last in (3, 0)]
    assert differences(*pairs) == ["edges[2]: [2, 3] / [2, 0]"]


def test_differences_between_classes_name_the_class_and_the_fields() -> None:
    lines = differences(to_plain({"s": TreeSampler(n_samples=3)}), to_plain({"s": GumbelSampler(n_distinct=3)}))
    assert "s.type: TreeSampler / GumbelSampler" in lines
    assert "s.n_samples: 3 / None" in lines


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda config: type(config).__name__)
def test_equal_configurations_do_not_differ(config: Any) -> None:
    assert differences(to_plain(config), to_plain(config)) == []


@given(st.integers(1, 100), st.integers(1, 100))
def test_differences_are_empty_only_for_equal_configurations(a: int, b: int) -> None:
    assert (
        differences(to_plain(RunConfig(steps=a, annealing=0.5)), to_plain(RunConfig(steps=b, annealing=0.5))) == []
    ) == (a == b)


def test_digest_is_short_stable_and_tells_configurations_apart() -> None:
    h = BoseHubbard(RING, 4, U=4.0)
    assert len(digest(h)) == 8
    assert int(digest(h), 16) >= 0
    assert digest(h) == digest(replace(h)) == digest(to_plain(h)) == digest(through_json(h))
    assert len({digest(config) for config in [*CONFIGURATIONS, h, replace(h, U=4.5)]}) == len(CONFIGURATIONS) + 1


def test_digest_does_not_depend_on_the_order_of_fields() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_renamed_field_keeps_its_name_in_archives() -> None:
    """So that runs of 0.2.0 are continued and found again by their digest."""
    plain = to_plain(RunConfig(total_minutes=3, annealing=0.5))
    assert plain["minutes"] == 3
    assert "total_minutes" not in plain
    assert from_plain(plain, {"RunConfig": RunConfig}) == RunConfig(total_minutes=3, annealing=0.5)
