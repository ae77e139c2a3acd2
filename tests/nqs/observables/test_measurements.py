"""What a run measures at its end: which observables each family gets, and that they are those of the state."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, exact
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import OnOrbits, Transformer
from nqs.observables import StateVector, exact_samples
from nqs.observables import measure as measurements
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import symmetries_of, translations

from matrices import dense

pytestmark = pytest.mark.usefixtures("unchecked")

ALWAYS = {"fidelity", "renyi2_entropy"}
COHERENT = {"one_body_density_matrix", "momentum_distribution"}
CASES: dict[str, tuple[Any, set[str], set[str]]] = {  # charges, and what else is measured
    "BoseHubbard": (BoseHubbard(chain(4), 3, U=4.0), {"particles"}, COHERENT | {"condensate_fraction"}),
    "flux": (
        BoseHubbard(chain(3), 2, U=4.0, phases=(0.0, 0.0, 0.5)),
        {"particles"},
        {"one_body_density_matrix", "condensate_fraction"},
    ),
    "Heisenberg": (Heisenberg(chain(4), 0), {"2_Sz"}, {"spin_correlations"}),
    "spin one": (Heisenberg(chain(3), 0, Delta=0.5, spin=1), {"2_Sz"}, {"spin_correlations"}),
    "Ising": (Ising(chain(4), h=1.0), {"2_Sz"}, {"spin_correlations"}),
    "FermiHubbard": (
        FermiHubbard(square(2, 2), 1, 1, U=4.0),
        {"up_electrons", "down_electrons", "particles", "Sz"},
        COHERENT | {"double_occupancy"},
    ),
    "TV": (TV(chain(5), 3, V=1.0), {"particles"}, COHERENT),
    "TJ": (TJ(chain(4), 1, 1, J=0.4), {"up_electrons", "down_electrons", "particles", "Sz"}, COHERENT),
}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_a_run_stores_what_is_natural_for_its_particles(case: str, tmp_path: Path) -> None:
    h, charges, others = CASES[case]
    ground_state = exact.ground_state(h)
    model = small_transformer(width=4, heads=1).build(h.hilbert)
    vmc = VMC(h, model, evaluation=TreeSampler(n_samples=4000))
    vmc.run(1, archive=tmp_path / "run.h5", exact=ground_state, progress=False)
    found = Archive.open(tmp_path / "run.h5").observables()
    expected = {f"{kind}_{name}" for name in charges for kind in ("density", "correlations", "structure_factor")}
    expected |= others | ALWAYS
    named = {name for name in found if f"{name}_error" in found}
    assert named == expected
    assert {name for name in found if name.endswith("_exact")} == {
        f"{name}_exact" for name in (expected | {"local_state_probabilities"}) - {"fidelity"}
    }
    assert {"local_state_probabilities", "distances", "wave_vectors", "particle_wave_vectors"} <= set(found)
    assert all(np.isfinite(values).all() for values in found.values())
    # Within error bars of the state that was sampled.
    with torch.no_grad():
        log_modulus, phase = model.log_psi(h.hilbert.configurations())
    psi = torch.polar(log_modulus.exp(), phase)
    truth = measurements.measure(exact_samples(h.hilbert, psi), model, h)
    for name in expected - {"fidelity"}:
        value, error = torch.from_numpy(found[name]), torch.from_numpy(found[f"{name}_error"])
        assert ((value - truth[name].value).abs() <= 5 * error + 1e-3).all(), name


def test_an_exact_state_measures_itself() -> None:
    h = FermiHubbard(chain(4, boundary="antiperiodic"), 2, 2, U=4.0)
    ground_state = exact.ground_state(h)
    samples = exact_samples(h.hilbert, ground_state.state)
    found = measurements.stored(samples, StateVector(h.hilbert, ground_state.state), h, exact=ground_state)
    assert found["fidelity"].item() == pytest.approx(1.0)
    for name in [name for name in found if f"{name}_exact" in found]:
        torch.testing.assert_close(found[name], found[f"{name}_exact"])
    assert found["momentum_distribution"].sum().item() == pytest.approx(4.0)


def test_few_samples_serve_what_is_dear() -> None:
    """Diagonal observables come from all samples, the others from the few."""
    h = BoseHubbard(chain(4), 4, U=1.0)
    model = small_transformer(width=4, heads=1).build(h.hilbert)
    generator = torch.Generator().manual_seed(0)
    many, few = (TreeSampler(n_samples=n).build(model).sample(generator) for n in (10_000, 100))
    found = measurements.measure(many, model, h, few=few)
    alone, together = (measurements.measure(samples, model, h) for samples in (few, many))
    assert torch.equal(found["density_particles"].value, together["density_particles"].value)
    assert torch.equal(found["one_body_density_matrix"].value, alone["one_body_density_matrix"].value)
    assert measurements.affordable(model, "cpu") < measurements.affordable(model, "cuda")


SYMMETRIC: dict[str, tuple[Any, bool]] = {  # whether one member of each orbit of the permutations is enough
    "bosons": (BoseHubbard(chain(5), 4, U=4.0), True),
    "flux": (BoseHubbard(chain(4), 3, U=4.0, phases=(0.2,) * 4), True),
    "spins": (Heisenberg(chain(6), 0), True),
    "electrons": (FermiHubbard(square(2, 3), 2, 2, U=4.0), True),
    "fermions without signs": (TV(chain(6), 3, V=1.0), False),
}


@pytest.mark.parametrize("case", SYMMETRIC)
def test_one_member_of_each_orbit_serves_for_all(case: str) -> None:
    h, enough = SYMMETRIC[case]
    symmetry = symmetries_of(h, fermions=case == "electrons")
    config = small_transformer(seed=3)
    model = OnOrbits(base=config, symmetry=symmetry).build(h.hilbert)
    generator = torch.Generator().manual_seed(0)
    samples = ExhaustiveSampler().build(model).sample(generator)
    every, few, permutations = measurements.samples_for(samples, model, generator, TreeSampler)
    assert every.n_distinct > samples.n_distinct
    assert (permutations is not None) == (few.n_distinct < every.n_distinct) == enough
    plain = measurements.measure(every, model, h)
    found = measurements.measure(every, model, h, few=few, permutations=permutations)
    assert set(found) == set(plain)
    for name, (value, error) in plain.items():
        torch.testing.assert_close(found[name].value, value, rtol=1e-10, atol=1e-12)
        assert not error.any()
        assert not found[name].error.any()
    samples = TreeSampler(n_samples=3000).build(model).sample(generator)
    every, few, permutations = measurements.samples_for(samples, model, generator, TreeSampler)
    assert few.counts is not None
    assert few.counts.sum() == 3000
    found = measurements.measure(every, model, h, few=few, permutations=permutations)
    for name, (value, _) in plain.items():
        assert ((found[name].value - value).abs() <= 5 * found[name].error + 1e-9).all(), name


def test_large_samples_are_replaced_by_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    h = FermiHubbard(square(2, 3), 2, 2, U=4.0)
    config = small_transformer(seed=3)
    generator = torch.Generator().manual_seed(0)
    symmetric, unsigned = (
        OnOrbits(base=config, symmetry=symmetry).build(h.hilbert)
        for symmetry in (symmetries_of(h, fermions=True), translations(h.lattice, h.hilbert))
    )
    monkeypatch.setattr(measurements, "affordable", lambda *_: 20)
    for model in (config.build(h.hilbert), symmetric, unsigned):
        samples = ExhaustiveSampler().build(model).sample(generator)
        every, few, _ = measurements.samples_for(samples, model, generator, TreeSampler)
        assert every.n_distinct > 200
        assert 5 < few.n_distinct < 40  # about as many as wanted
        assert few.counts is not None


def model_vector(model: Transformer) -> np.ndarray:
    log_psi = model.log_psi(model.hilbert.configurations())
    return torch.polar(log_psi.log_modulus.exp(), log_psi.phase).detach().numpy()


def test_what_is_not_defined_is_left_out() -> None:
    ring = TV(chain(4), 2, V=0.0)  # an open shell: no single ground state to compare with
    degenerate = exact.ground_state(ring)
    assert degenerate.gap < 1e-9
    model = small_transformer(width=4, heads=1).build(ring.hilbert)
    samples = GumbelSampler(n_distinct=4).build(model).sample(torch.Generator().manual_seed(0))
    found = measurements.stored(samples, model, ring, exact=degenerate)
    level = np.linalg.eigh(dense(ring))[1][:, :2]  # both states of the level
    psi = StateVector(ring.hilbert, level @ np.array([0.6, 0.8]))
    every = exact_samples(ring.hilbert, level @ np.array([0.6, 0.8]))
    assert degenerate.multiplicity == 2
    assert measurements.measure(every, psi, ring, exact=degenerate)["fidelity"].value.item() == pytest.approx(1.0)
    weights = level.T @ model_vector(model)
    whole = ExhaustiveSampler().build(model).sample(torch.Generator())
    mixed = measurements.measure(whole, model, ring, exact=degenerate)["fidelity"]
    assert mixed.value.item() == pytest.approx((abs(weights) ** 2).sum())
    unknown = dataclasses.replace(degenerate, level=None)  # not all members of the level are known
    assert "fidelity" not in measurements.measure(whole, model, ring, exact=unknown)
    assert not [name for name in found if name.endswith("_exact")]
    assert "renyi2_entropy" not in found  # pairs of samples must be independent
    nobody = BoseHubbard(chain(3), 0, U=1.0)
    model = small_transformer(width=4, heads=1).build(nobody.hilbert)
    samples = TreeSampler(n_samples=10).build(model).sample(torch.Generator().manual_seed(0))
    assert "condensate_fraction" not in measurements.measure(samples, model, nobody)
