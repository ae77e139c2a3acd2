"""The unit of energy: runs for a H + b are runs for H in another unit, at any strength of the couplings."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import first_order, natural_gradient
from torch.nn.utils import parameters_to_vector

from nqs import VMC, Archive, Result, exact, recipes, resume
from nqs.estimators.energy import v_score
from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.estimate import with_decimals, with_error
from nqs.exact import lowest_sector
from nqs.hamiltonians import TJ, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain, square
from nqs.models import MarshallSign, hartree_fock
from nqs.observables import measure
from nqs.optimisation import OptimiserConfig
from nqs.protocols import Connected, Hamiltonian, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import symmetries_of

from matrices import dense

pytestmark = pytest.mark.usefixtures("unchecked")


@dataclass(frozen=True)
class Affine:
    """a H + b."""

    base: Any
    a: float = 1.0
    b: float = 0.0

    @property
    def hilbert(self) -> HilbertSpace:
        return self.base.hilbert

    @property
    def lattice(self) -> Any:
        return self.base.lattice

    @property
    def is_stoquastic(self) -> bool:
        return self.base.is_stoquastic

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return self.a * self.base.diagonal(n) + self.b

    def connected(self, n: torch.Tensor) -> Connected:
        found = self.base.connected(n)
        return found._replace(elements=self.a * found.elements)


TOY = small_transformer()
POSITIVE = replace(TOY, phase="zero")
BOSONS = BoseHubbard(chain(5), 5, U=4.0)
SPINS = Heisenberg(chain(8), 0.0)
ELECTRONS = FermiHubbard(square(2, 3, "open"), 2, 2, U=4.0)
MARSHALL = replace(POSITIVE, reference=MarshallSign(sublattice=(0, 1) * 4))
TREE = TreeSampler(n_samples=500)

PROBLEMS: dict[str, tuple[Hamiltonian, WavefunctionConfig, Any, OptimiserConfig | None]] = {
    "bosons, exact steps": (BOSONS, POSITIVE, ExhaustiveSampler(), None),
    "bosons, sampled": (BOSONS, POSITIVE, TREE, None),
    "spins, sampled": (SPINS, MARSHALL, TREE, natural_gradient(momentum=0.9)),
    "spins, SGD": (SPINS, MARSHALL, TREE, first_order(name="SGD", learning_rate=0.05)),
    "electrons, exact steps": (ELECTRONS, TOY, ExhaustiveSampler(), None),
    "electrons, sampled": (ELECTRONS, TOY, TREE, None),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


@functools.cache
def run(name: str, steps: int, a: float = 1.0, b: float = 0.0, temperature: float = 0.0) -> tuple[Result, torch.Tensor]:
    """A run for a H + b, and its final parameters. Tests share those for H itself and leave them as they are."""
    base, model, sampler, optimiser = PROBLEMS[name]
    hamiltonian = Affine(base, a, b)
    psi = model.build(hamiltonian.hilbert)
    result = VMC(hamiltonian, psi, sampler, optimiser).run(steps, progress=False, temperature=a * temperature)
    return result, parameters_to_vector(psi.parameters()).detach()


# ----------------------------------------------------------------------------------------------------- the scale


@pytest.mark.parametrize(
    ("hamiltonian", "scale"),
    [
        (FermiHubbard(chain(6), 3, 3, t=0.5, U=9.0), 0.5),
        (FermiHubbard(square(6, 6), 18, 18, U=8.0), 1.0),
        (Ising(chain(30), h=-2.0, J=7.0), 2.0),
        (Heisenberg(chain(10), 0.0, J=3.0), 1.5),
        (Heisenberg(chain(6), 0.0, spin=1.0), 1.0),
        (BoseHubbard(chain(2), 1, U=5.0, J=0.25), 0.25),
        # J sqrt(n_i (n_j + 1)) from (2, 0), (1, 1) twice, and (0, 2): all are sqrt(2) J.
        (BoseHubbard(chain(2), 2, U=5.0), np.sqrt(2)),
        # All four configurations, Z Z + Z + Z: standard deviation sqrt(3) over the root of two sites.
        (Ising(chain(2), h=0.0, g=1.0), np.sqrt(1.5)),
        (Affine(Ising(chain(4), h=0.0, J=0.0), b=3.0), 1.0),
    ],
)
def test_scale_of_families(hamiltonian: Hamiltonian, scale: float) -> None:
    assert energy_scale(hamiltonian) == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("base", [BOSONS, SPINS, ELECTRONS, Ising(chain(4), h=0.0), TJ(square(4, 4), 6, 6, J=0.3)])
def test_scale_is_proportional_and_does_not_see_a_constant(base: Hamiltonian) -> None:
    scale = energy_scale(base)
    assert [energy_scale(Affine(base, 2.0**k)) for k in (-90, -1, 90)] == [2.0**k * scale for k in (-90, -1, 90)]
    for a, b in [(1e-8, 0.0), (3e7, 0.0), (1.0, 1e3), (1e-8, -1e-5)]:
        assert energy_scale(Affine(base, a, b)) == pytest.approx(a * scale, rel=1e-6)


def test_scale_does_not_grow_with_the_lattice() -> None:
    scales = [energy_scale(BoseHubbard(chain(L), L, U=4.0)) for L in (6, 40, 200)]
    assert max(scales) < 1.2 * min(scales)


@pytest.mark.parametrize("a", [1e-200, 1e200])
def test_a_unit_in_which_squares_overflow_is_refused(a: float) -> None:
    with pytest.raises(ValueError, match=r"Affine are of the order .*: state its couplings in a unit"):
        energy_scale(Affine(BOSONS, a))


def test_rounding_errors_are_no_hops() -> None:
    assert energy_scale(BoseHubbard(chain(5), 5, U=4.0, J=1e-17)) == energy_scale(
        BoseHubbard(chain(5), 5, U=4.0, J=0.0)
    )


# ---------------------------------------------------------------------------------------------------------- runs


@every_problem
@pytest.mark.parametrize("k", [-30, 20])
def test_powers_of_two_change_no_bit(name: str, k: int) -> None:
    a = 2.0**k
    (one, theta), (other, theta_other) = run(name, 4, temperature=0.5), run(name, 4, a, temperature=0.5)
    for column in ("energy", "error", "gradient_norm"):
        np.testing.assert_array_equal(other.history[column], a * one.history[column])
    for column in ("learning_rate", "update_norm", "v_score", "distinct"):
        np.testing.assert_array_equal(other.history[column], one.history[column])
    np.testing.assert_array_equal(other.history["variance"], a**2 * one.history["variance"])
    assert other.estimate.energy == a * one.estimate.energy
    assert torch.equal(theta, theta_other)


@every_problem
@pytest.mark.parametrize(("a", "b"), [(1e-8, 0.0), (1e-3, 1.0), (1e8, 0.0), (1.0, 1e3), (1e-8, -1e-5)])
def test_other_units_change_rounding_alone(name: str, a: float, b: float) -> None:
    """A few steps: rounding errors, which grow from step to step, are still small."""
    one, other = run(name, 4)[0], run(name, 4, a, b)[0]
    scale = energy_scale(PROBLEMS[name][0])
    np.testing.assert_allclose((other.history["energy"] - b) / a, one.history["energy"], rtol=0, atol=1e-7 * scale)
    assert (other.estimate.energy - b) / a == pytest.approx(one.estimate.energy, abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("base", "phase", "steps"),
    [(BoseHubbard(chain(4), 4, U=4.0), "zero", 30), (FermiHubbard(chain(4), 2, 1, U=4.0), "learned", 45)],
)
def test_whole_runs_converge_in_every_unit(base: Hamiltonian, phase: Any, steps: int) -> None:
    ground, model = np.linalg.eigvalsh(dense(base))[0], replace(TOY, width=16, phase=phase)
    for a, b in [(1.0, 0.0), (1e-8, 0.0), (1e-3, 1.0), (1e8, -1e11)]:
        hamiltonian = Affine(base, a, b)
        result = VMC(hamiltonian, model.build(base.hilbert), ExhaustiveSampler()).run(steps, progress=False)
        assert (result.estimate.energy - b) / a == pytest.approx(ground, abs=1e-9), (a, b)


@pytest.mark.parametrize(("a", "b"), [(1e-8, 0.0), (1e8, 1e11)])
def test_whole_sampled_runs_end_at_the_same_error(a: float, b: float) -> None:
    ground = np.linalg.eigvalsh(dense(SPINS))[0]
    results = [run("spins, sampled", 40, a, b)[0] for a, b in [(1.0, 0.0), (a, b)]]
    one, other = ((r.estimate.energy - c) / f - ground for r, f, c in zip(results, (1.0, a), (0.0, b), strict=True))
    assert one < 0.03
    assert other == pytest.approx(one, abs=max(one, 6 * results[0].estimate.error))


def test_plans_do_not_depend_on_the_unit() -> None:
    plans = [recipes.plan(Affine(ELECTRONS, a), device="cpu") for a in (1.0, 2.0**-30, 2.0**30)]
    one, *others = [(replace_all(plan.model), plan.stages, plan.reason("symmetry").split("E =")[0]) for plan in plans]
    assert all(other == one for other in others)


def replace_all(model: Any) -> Any:
    """Without the orbitals, which may differ by rounding errors."""
    return type(model), getattr(getattr(model, "symmetry", None), "angles", None)


def test_an_archive_without_a_scale_goes_on_with_absolute_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of nqs 0.1 and 0.2.0."""

    def vmc() -> VMC:
        return VMC(BOSONS, POSITIVE.build(BOSONS.hilbert), TREE, natural_gradient())

    assert vmc().energy_scale > 1.5
    with monkeypatch.context() as absolute:
        absolute.setattr("nqs.vmc.loop.energy_scale", lambda hamiltonian: 1.0)
        wanted = vmc().run(6, progress=False)
    monkeypatch.setattr(VMC, "config", without_scale(VMC.config))
    for go_on in (lambda path: resume(path, progress=False), lambda path: vmc().run(6, archive=path, progress=False)):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        vmc().run(6, archive=path, minutes=1e-9, progress=False)
        assert "energy_scale" not in Archive.open(path).config
        assert go_on(path).history["energy"].tolist() == wanted.history["energy"].tolist()
    monkeypatch.undo()
    assert vmc().run(6, archive=path, progress=False).estimate == wanted.estimate  # today's configuration has the scale


def without_scale(config: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def stored(*arguments: Any) -> dict[str, Any]:
        return {name: part for name, part in config(*arguments).items() if name != "energy_scale"}

    return stored


# ------------------------------------------------------------------------------------------------- strong coupling


@pytest.mark.parametrize("U", [30.0, 1e3, 1e5, 1e8])
@pytest.mark.parametrize("sampler", [ExhaustiveSampler(), TREE], ids=["exact", "sampled"])
def test_strong_coupling_gives_the_mott_state_without_a_warning(U: float, sampler: Any) -> None:
    hamiltonian = BoseHubbard(chain(4), 4, U=U)
    ground = np.linalg.eigvalsh(dense(hamiltonian))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psi = POSITIVE.build(hamiltonian.hilbert)
        result = VMC(hamiltonian, psi, sampler, evaluation=ExhaustiveSampler()).run(40, progress=False)
    # The energy is -16 J^2 / U to second order; samples do not see configurations of little weight.
    unseen = 1e-13 if isinstance(sampler, ExhaustiveSampler) else 0.01
    assert -1e-14 * U < result.estimate.energy - ground < 0.2 * 16 / U + unseen * U


@pytest.mark.parametrize("hamiltonian", [Ising(chain(6), h=1e-3), FermiHubbard(chain(4), 2, 2, U=1e4)])
def test_other_strong_couplings_give_no_warning(hamiltonian: Hamiltonian) -> None:
    scale = energy_scale(hamiltonian)
    ground = np.linalg.eigvalsh(dense(hamiltonian))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psi = TOY.build(hamiltonian.hilbert)
        result = VMC(hamiltonian, psi, ExhaustiveSampler()).run(80, progress=False)
    assert result.estimate.energy - ground < scale


# ------------------------------------------------------------------------------------------- exact and mean fields

UNITS = [(1e-100, 0.0), (1e-8, 0.0), (1e8, 0.0), (1e100, 0.0), (1.0, 1e3), (1e-8, -1e-5), (1e8, 1e11)]


@pytest.mark.parametrize(("a", "b"), UNITS)
@pytest.mark.parametrize(
    ("base", "multiplicity"),
    [
        (Heisenberg(chain(7)), 4),  # two momenta, two directions of the spin; dimension 128: Lanczos
        (BoseHubbard(chain(6), 5, U=4.0), 1),  # dimension 252
        (Heisenberg(chain(3)), 4),  # dense
    ],
)
def test_exact_levels(base: Hamiltonian, multiplicity: int, a: float, b: float) -> None:
    levels = np.linalg.eigvalsh(dense(base))
    assert int((levels < levels[0] + 1e-9).sum()) == multiplicity
    found = exact.ground_state(Affine(base, a, b))
    rounding = 1e-12 + 1e-14 * abs(b) / a
    assert (found.energy - b) / a == pytest.approx(levels[0], abs=20 * rounding)
    assert found.multiplicity == multiplicity
    gap = 0.0 if multiplicity > 1 else levels[1] - levels[0]
    assert found.gap / a == pytest.approx(gap, abs=1e-9 + 20 * rounding)
    left = dense(base) @ found.state - levels[0] * found.state
    assert np.linalg.norm(left) < 1e-8


@pytest.mark.parametrize("base", [Affine(Ising(chain(7), h=0.0, J=0.0), b=b) for b in (0.0, 1e-3, 7e5)])
def test_a_multiple_of_the_identity(base: Affine) -> None:
    found = exact.ground_state(base)
    assert found.energy == pytest.approx(base.b, rel=1e-14)
    assert (found.multiplicity > 10, found.gap) == (True, 0.0)


def test_a_small_gap_is_no_degeneracy_because_of_a_constant() -> None:
    """Two levels 1e-7 apart, in a Hamiltonian with a constant of 1000."""
    base = Ising(chain(7), h=0.3, g=1e-8)
    levels = np.linalg.eigvalsh(dense(base))
    for b in (0.0, 1e3):
        found = exact.ground_state(Affine(base, b=b))
        assert found.multiplicity == 1
        assert found.gap == pytest.approx(levels[1] - levels[0], rel=1e-2, abs=3e-9)


@pytest.mark.parametrize(("a", "b"), UNITS)
@pytest.mark.parametrize(
    "base",
    [ELECTRONS, FermiHubbard(chain(6), 2, 3, U=4.0, V=0.7, mu=0.4, h=0.2), FermiHubbard(square(2, 3), 2, 2, U=4.0)],
)
def test_hartree_fock(base: Hamiltonian, a: float, b: float) -> None:
    one, other = hartree_fock(base), hartree_fock(Affine(base, a, b))
    rounding = 1e-9 + 1e-13 * abs(b) / a
    assert (other.energy - b) / a == pytest.approx(one.energy, abs=rounding)
    assert other.gap / a == pytest.approx(one.gap, abs=1e-5 + rounding)
    assert len(other.solutions) == len(one.solutions)
    assert len(other.energies) == len(one.energies)


@pytest.mark.parametrize(("a", "b"), UNITS)
def test_projected_sectors(a: float, b: float) -> None:
    base = FermiHubbard(chain(6), 2, 2, U=4.0)
    determinants = hartree_fock(base).solutions
    group = symmetries_of(base, fermions=True)
    one, other = (lowest_sector(h, group, determinants) for h in (base, Affine(base, a, b)))
    assert other[1] == one[1]
    assert (other[2] - b) / a == pytest.approx(one[2], abs=1e-9 + 1e-13 * abs(b) / a)


@pytest.mark.parametrize(("a", "b"), UNITS)
def test_detected_symmetries(a: float, b: float) -> None:
    """A weak potential breaks translations and reflections whatever the unit."""
    for base in (BoseHubbard(chain(4), 4, U=4.0, potential=(1e-4, 0.0, 0.0, 3e-4)), BOSONS, SPINS):
        assert symmetries_of(Affine(base, a, b)).order == symmetries_of(base).order
    assert symmetries_of(Affine(BoseHubbard(chain(4), 4, U=4.0, potential=(1e-4, 0.0, 0.0, 3e-4)), a, b)).order == 1


@pytest.mark.parametrize("a", [1e-9, 1.0])
def test_exact_observables_are_stored_in_every_unit(a: float) -> None:
    hamiltonian = Affine(BOSONS, a)
    psi = POSITIVE.build(BOSONS.hilbert)
    samples = ExhaustiveSampler().build(psi).sample(torch.Generator())
    found = measure.stored(samples, psi, hamiltonian, exact=exact.ground_state(hamiltonian))
    assert "local_state_probabilities_exact" in found


# ------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("unit", [1e-140, 1.0, 1e140])
def test_v_score_has_no_unit(unit: float) -> None:
    assert v_score(-3 * unit, 4 * unit**2, 5, unit) == pytest.approx(5 * 4 / 16)
    assert v_score(1e-200, 0.25, 1, 0.0) == np.inf


def test_small_and_large_energies_keep_their_digits() -> None:
    assert with_error(-7.4597912e-8, 3.1e-13) == "-7.459791(31)e-08"
    assert with_error(-7.4597912e-8, 0.0) == "-7.45979120e-08"
    assert with_error(0.0, 2e-9) == "0.0(20)e-09"
    assert with_error(-1.25e20, 3e18) == "-1.250(30)e+20"
    assert with_decimals(0.0, 3) == "0.000"
    found = exact.ground_state(Affine(BoseHubbard(chain(4), 4, U=4.0), 2.0**-40))
    assert f"{found.energy:.10e}" in str(found)
