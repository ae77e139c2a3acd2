"""Ends of the parameters: one state, one site, no particles, large lattices, numbers that do not fit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import ground_state
from nqs.cli import main
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, Rydberg
from nqs.hilbert import bosons, spins
from nqs.lattice import Lattice, chain, honeycomb, hypercubic, kagome, square, triangular
from nqs.optimisation.stages import RunConfig
from nqs.recipes import plan
from nqs.recipes.stages import subgroup_of_steps
from nqs.runtime.device import checked_device
from nqs.symmetry import particle_hole
from nqs.symmetry.constructors import of_sites
from nqs.symmetry.of_hamiltonian import symmetries_of

ONE_STATE: dict[str, tuple[Callable[[], Any], float]] = {
    "no boson": (lambda: BoseHubbard(chain(4), 0, U=4.0), 0.0),
    "bosons on one site": (lambda: BoseHubbard(chain(1), 3, U=4.0, mu=0.5), 4.0 * 3 - 1.5),
    "full lattice of bosons": (lambda: BoseHubbard(chain(3), 6, U=2.0, n_max=2), 3 * 2.0),
    "polarised spins": (lambda: Heisenberg(chain(4), 2), 4 / 4),
    "one spin": (lambda: Heisenberg(chain(1), 0.5, h=0.3), -0.15),
    "one large spin": (lambda: Heisenberg(chain(1), None, h=0.3, spin=1.5), -0.45),
    "one Ising spin": (lambda: Ising(chain(1), h=0.6, g=0.8), -1.0),
    "no fermion": (lambda: TV(chain(4), 0, V=1.0), 0.0),
    "full lattice of fermions": (lambda: TV(chain(4), 4, V=1.5), 4 * 1.5),
    "one fermion on one site": (lambda: TV(chain(1), 1, V=1.0, mu=0.7), -0.7),
    "no electron": (lambda: FermiHubbard(chain(4), 0, 0, U=4.0), 0.0),
    "full lattice of electrons": (lambda: FermiHubbard(chain(3), 3, 3, U=4.0), 12.0),
    "no electron in t-J": (lambda: TJ(chain(4), 0, 0, J=1.0), 0.0),
    "full lattice in t-J": (lambda: TJ(chain(4), 4, 0, J=1.0), 0.0),
}


@pytest.mark.parametrize(("build", "energy"), ONE_STATE.values(), ids=ONE_STATE)
def test_spaces_of_one_or_few_states_run(build: Callable[[], Any], energy: float) -> None:
    result = ground_state(build(), steps=2, device="cpu", progress=False)
    assert result.exact == pytest.approx(energy, abs=1e-12)
    if build().hilbert.dimension == 1:
        assert result.estimate.energy == pytest.approx(energy, abs=1e-12)


def test_a_reversal_of_one_local_state_is_the_identity() -> None:
    assert particle_hole(bosons(3, 0)).order == 1
    with pytest.raises(ValueError, match="no odd states"):
        particle_hole(bosons(3, 0), odd=True)


# ---- large lattices --------------------------------------------------------------------------------

LARGE = [
    chain(60),
    chain(59),
    square(8, 8),
    square(6, 4),
    square(6, boundary=["open", "periodic"]),
    square(6, boundary="antiperiodic"),
    triangular(6),
    triangular(4, 8),
    honeycomb(4),
    kagome(4),
    hypercubic((4, 4, 4)),
]


@pytest.mark.parametrize("lattice", LARGE, ids=str)
@pytest.mark.parametrize("fraction", [0.6, 0.2, 0.0])
def test_the_reduced_space_group_is_a_subgroup(lattice: Lattice, fraction: float) -> None:
    whole = lattice.space_group()
    largest = max(1, int(fraction * whole.numel()))
    reduced = lattice.space_group(largest)
    of_sites(reduced.numpy(), 2, False)  # raises if it is no group
    rows = set(map(tuple, whole.tolist()))
    assert set(map(tuple, reduced.tolist())) <= rows
    assert reduced.numel() <= max(largest, lattice.point_group().numel())
    assert reduced[0].tolist() == list(range(lattice.n_sites))
    assert len(reduced) % len(lattice.point_group()) == 0
    assert torch.equal(lattice.space_group(whole.numel()), whole)


def test_symmetries_of_large_lattices_stay_few() -> None:
    h = Heisenberg(square(24), 0)
    group = symmetries_of(h)
    assert group.order * 576 <= 2 * 2**18
    assert group.order >= 8 * 2 * 16
    trained = subgroup_of_steps(group, h, 20)
    assert trained is not None
    assert 20 / 3 <= len(trained) <= 20


@pytest.mark.parametrize("h", [Heisenberg(square(40), 0), Heisenberg(chain(2000), 0)], ids=str)
def test_dimensions_beyond_floating_point_numbers(h: Heisenberg) -> None:
    L = h.lattice.n_sites
    exponent = math.floor(math.log10(math.comb(L, L // 2)))
    assert str(h.hilbert).endswith(f"e+{exponent}")
    with pytest.raises(ValueError, match=rf"dimension \d\.\d\d\de\+{exponent} does not fit into 64-bit"):
        h.hilbert.rank(h.hilbert.random(1, torch.Generator().manual_seed(0)))


def test_a_plan_for_a_lattice_of_a_thousand_sites() -> None:
    """Two hundred bosons on a ring, a ring of 500 spins: planned and checked before the first step."""
    chosen = plan(BoseHubbard(chain(200), 200, U=4.0, n_max=4), steps=1, device="cpu", threads=1)
    assert "dimension 5.6" in str(chosen) or "e+" in str(chosen)
    h = Heisenberg(chain(500), 0)
    check_hamiltonian(h)
    chosen = plan(h, steps=1, device="cpu", threads=1)
    assert "Marshall" in chosen.reason("signs")
    assert chosen.n_images <= 20


# ---- numbers that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_seeds_have_64_bits(seed: int) -> None:
    for build in (lambda: RunConfig(seed=seed, annealing=0.5), lambda: small_transformer(seed=seed)):
        with pytest.raises(ValueError, match=rf"seed={seed}: it must fit into 64 bits"):
            build()
    RunConfig(seed=2**63 - 1, annealing=0.5)
    RunConfig(seed=-(2**63), annealing=0.5)


@pytest.mark.parametrize("name", ["mps", "meta", "xpu"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name}' cannot run nqs.*choose 'cpu' or 'cuda'"):
        checked_device(name)


def test_networks_and_samples_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"width=10000000, layers=2\) needs .* GiB are available: choose a narrower"):
        small_transformer(width=10_000_000, layers=2, heads=4).build(spins(4, 0))
    with pytest.raises(ValueError, match=r"distinct=1,000,000,000,000 needs .*choose fewer distinct"):
        plan(Heisenberg(chain(60), 0), distinct=10**12, device="cpu", threads=1)


def test_random_fields_have_no_symmetry_on_large_lattices() -> None:
    """One impurity among 300 sites leaves the reflection about it."""
    J = np.ones(300)
    J[17] = 0.5
    assert symmetries_of(Heisenberg(chain(300), 0, J=[J])).order == 2 * 2
    assert symmetries_of(Heisenberg(chain(300), 0, h=np.random.default_rng(0).normal(size=300))).order == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rydberg(chain(200_000)), r"the distances of all pairs of 200,000 .*: take a smaller lattice"),
        (lambda: chain(200_000).translations(), r"a table of 200,000 translations of 200,000 sites needs"),
        (lambda: Heisenberg(chain(100_000), 0).hilbert, r"counting the configurations of 100,000 sites .* fewer sites"),
    ],
)
def test_lattices_whose_tables_do_not_fit_are_refused_before_they_are_made(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_an_exact_energy_of_zero_has_no_relative_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h = TV(chain(4), 2, t=0.0, V=0.0)
    path = tmp_path / "zero.h5"
    result = ground_state(h, steps=2, device="cpu", archive=path)
    main(["show", str(path)])
    printed = capsys.readouterr().out + f"{result} {result!r} {result._repr_html_()}"
    assert "nan" not in printed
    assert "exact 0.00000000 t: error +0.00e+00" in printed
    assert "(dense, dimension 6), error +0.0e+00" in printed
