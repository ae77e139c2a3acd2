"""States above the lowest against dense diagonalisation: exact levels, and VMC orthogonal to known states."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import exact_steps, natural_gradient

import nqs
from nqs import VMC, exact
from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.local_energy import Energy
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain, square
from nqs.models import OnOrbits, Transformer
from nqs.observables import StateVector
from nqs.optimisation import ExactSteps, KnownState
from nqs.optimisation.known_states import Known, Penalised, overlap, overlaps, penalised, ratios
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import translations
from nqs.vmc.orthogonal import known_states, level_above

BOSONS = BoseHubbard(chain(4, periodic=False), 3, U=4.0, potential=(0.3, -1.1, 0.7, 0.2))
SPINS = Heisenberg(chain(6, periodic=False), 0, J=1.0, Delta=0.7)
ELECTRONS = FermiHubbard(chain(4), 2, 1, U=3.0, potential=(0.3, -0.4, 0.6, 0.0))
MODELS = {
    "bosons": BOSONS,
    "spins": SPINS,
    "electrons": ELECTRONS,
    "ring of spins": Heisenberg(chain(9), 0.5),  # twofold levels
    "frustrated spins": Heisenberg(chain(8), 0, J=(1.0, 0.5)),  # twofold ground state (Majumdar and Ghosh)
    "Hubbard lattice": FermiHubbard(square(2, 3), 2, 3, U=4.0),
    "twisted ring": TV(chain(10), 4, V=1.5, twist=(0.4,)),  # complex
}
every_model = pytest.mark.parametrize("h", MODELS.values(), ids=MODELS)


def dense(h: Hamiltonian) -> tuple[np.ndarray, np.ndarray]:
    return np.linalg.eigh(exact.sparse_matrix(h).toarray())


def model(h: Hamiltonian, seed: int = 0) -> Transformer:
    return small_transformer(width=16, seed=seed).build(h.hilbert)


def amplitudes(state: Wavefunction) -> np.ndarray:
    x = state.log_psi(state.hilbert.configurations())
    return torch.polar(x.log_modulus.exp(), x.phase).detach().numpy()


# ---- exact levels ------------------------------------------------------------------------------------


@every_model
def test_lowest_levels(h: Hamiltonian) -> None:
    energies, _ = dense(h)
    k = min(9, len(energies))
    found = exact.lowest(h, k)
    assert found.energies == pytest.approx(energies[:k], abs=1e-11)
    assert abs(found.states.conj() @ found.states.T - np.eye(k)).max() < 1e-12
    residual = exact.sparse_matrix(h) @ found.states.T - found.states.T * found.energies
    assert abs(residual).max() < 1e-9
    sizes = [size for _, size in found.levels]
    whole = [int((abs(energies[:k] - energy) < 1e-8).sum()) for energy, _ in found.levels]
    assert sizes == whole


def test_degenerate_levels_are_counted() -> None:
    assert exact.lowest(MODELS["frustrated spins"], 3).levels[0][1] == 2
    flat = Heisenberg(chain(8), None, J=-1.0)  # the 9 states of the largest total spin
    assert [size for _, size in exact.lowest(flat, 10).levels] == [9, 1]


def test_levels_in_a_symmetry_sector() -> None:
    h = Heisenberg(chain(8), 0)
    symmetry = translations(chain(8), h.hilbert, momentum=(3,))
    found = exact.lowest(h, 3, symmetry=symmetry)
    H = exact.sparse_matrix(h)
    for energy, state in zip(found.energies, found.full_states(h.hilbert), strict=True):
        assert np.linalg.norm(state) == pytest.approx(1.0)
        assert np.linalg.norm(H @ state - energy * state) < 1e-9
    everything = np.sort(
        np.concatenate(
            [exact.lowest(h, 3, symmetry=translations(chain(8), h.hilbert, momentum=(k,))).energies for k in range(8)]
        )
    )
    assert everything[:6] == pytest.approx(dense(h)[0][:6], abs=1e-11)


def test_rounding_errors_around_zero_are_printed_without_a_sign() -> None:
    found = exact.lowest(Heisenberg(chain(4), total_sz=0), 1)
    found = replace(found, energies=np.array([-1e-17]))
    assert str(found).startswith("exact E = 0.0000000000; ")


def test_text_and_impossible_numbers() -> None:
    assert str(exact.lowest(BOSONS, 2)) == "exact E = -3.1613542610, -1.8653830521; dimension 20 (dense)"
    for k in (0, 21):
        with pytest.raises(ValueError, match=f"n_states={k}: the sector has 20 states"):
            exact.lowest(BOSONS, k)


# ---- the penalty -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", [natural_gradient(), exact_steps()], ids=["local", "matrix"])
def test_local_values_are_those_of_the_penalised_matrix(optimiser: Any) -> None:
    h, phi, psi = SPINS, model(SPINS, 1), model(SPINS, 2)
    samples = ExhaustiveSampler().build(psi).sample(torch.Generator())
    objective = penalised(optimiser.objective(h), [Known(phi, 3.0)])
    local = objective.local(psi, samples)
    k, x = amplitudes(phi), amplitudes(psi)
    H = exact.sparse_matrix(h).toarray()
    expected = (H @ x + 3.0 * k * (k.conj() @ x)) / x
    np.testing.assert_allclose(local.values.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(local.energies.numpy(), (H @ x) / x, atol=1e-10)
    assert local.overlaps[0] == pytest.approx(abs(k.conj() @ x) ** 2)
    if isinstance(optimiser, ExactSteps):
        y = torch.from_numpy(x)
        product = objective.matrix(psi, samples).apply(y).numpy()
        np.testing.assert_allclose(product, expected * x, atol=1e-10)


def test_states_with_a_symmetry_see_the_projection_of_a_known_state() -> None:
    h = Heisenberg(chain(6), 0)
    known = model(h, 3)
    symmetry = translations(chain(6), h.hilbert, momentum=(1,))
    psi = OnOrbits(base=small_transformer(heads=1), symmetry=symmetry).build(h.hilbert)
    expected = abs(amplitudes(known).conj() @ amplitudes(psi)) ** 2
    samples = ExhaustiveSampler().build(psi).sample(torch.Generator())
    assert overlaps([Known(known, 1.0)], psi, samples).value.item() == pytest.approx(expected, rel=1e-9)
    other = translations(chain(6), h.hilbert, momentum=(2,))
    elsewhere = OnOrbits(base=small_transformer(heads=1), symmetry=other).build(h.hilbert)
    assert overlaps([Known(elsewhere, 1.0)], psi, samples).value.item() == pytest.approx(0.0, abs=1e-20)
    sector = penalised(exact_steps().objective(h), [Known(known, 2.0)])
    energies = penalised(natural_gradient().objective(h), [Known(known, 2.0)])
    np.testing.assert_allclose(sector.local(psi, samples).values, energies.local(psi, samples).values, atol=1e-10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=12), GumbelSampler(n_distinct=12)], ids=["tree", "gumbel"])
@pytest.mark.usefixtures("unchecked")
def test_sampled_overlaps_and_penalties_have_no_bias(sampler: Any) -> None:
    """The square of the mean of 12 samples exceeds the overlap by the noise; the estimates are right in the mean.

    Draws without replacement are normalised to their sum of weights, which leaves a bias of second order.
    """
    h, phi, psi = SPINS, model(SPINS, 1), model(SPINS, 2)
    exhaustive = ExhaustiveSampler().build(psi).sample(torch.Generator())
    right = overlap(exhaustive, ratios(phi, psi, exhaustive)).value.item()
    objective, drawing = Penalised(Energy(h), [Known(phi, 1.0)]), sampler.build(psi)
    generator, draws = torch.Generator().manual_seed(0), 400

    def weighted(samples: Any, local: Any) -> complex:  # as the gradient weighs them
        angle = torch.cos(samples.configurations.double() @ torch.arange(1.0, 7.0).double())
        return samples.mean(local.penalty * angle).item()

    expected = weighted(exhaustive, objective.local(psi, exhaustive))
    found, naive, gradients = [], [], []
    for _ in range(draws):
        samples = drawing.sample(generator)
        local = objective.local(psi, samples)
        found.append(local.overlaps[0])
        naive.append(abs(samples.mean(ratios(phi, psi, samples)).item()) ** 2)
        gradients.append(weighted(samples, local))
    error, spread = np.std(found) / draws**0.5, np.std(gradients) / draws**0.5
    second_order = 0.0 if isinstance(sampler, TreeSampler) else 0.1 * (np.mean(naive) - right)
    assert abs(np.mean(found) - right) < 4 * error + second_order
    assert abs(np.mean(gradients) - expected) < 4 * spread + second_order
    assert np.mean(naive) > right + 6 * error


# ---- runs --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("h", [BOSONS, SPINS, ELECTRONS], ids=["bosons", "spins", "electrons"])
@pytest.mark.usefixtures("unchecked")
def test_the_next_state_is_found(h: Hamiltonian) -> None:
    energies, states = dense(h)
    first = VMC(h, model(h), orthogonal_to=[states[:, 0]]).run(50, progress=False)
    assert first.estimate.energy == pytest.approx(energies[1], rel=1e-6)
    assert first.overlaps[0] == (pytest.approx(0.0, abs=1e-7), 0.0)
    assert first.history["overlap_0"].shape == (50,)
    assert "overlap with known states" in str(first)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
def test_a_third_state_above_a_vector_and_an_archive_is_resumed(tmp_path: Any) -> None:
    energies, states = dense(BOSONS)
    path, next_path = tmp_path / "first.h5", tmp_path / "second.h5"
    nqs.ground_state(
        BOSONS, orthogonal_to=[states[:, 0]], steps=60, device="cpu", archive=path, progress=False, exact=None
    )
    known = [states[:, 0], path]
    whole = VMC(BOSONS, model(BOSONS), orthogonal_to=known).run(60, progress=False)
    assert whole.estimate.energy == pytest.approx(energies[2], rel=1e-6)
    assert len(whole.overlaps) == 2

    class Stop:
        def step(self, row: Any) -> None:
            if row["step"] == 9:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        VMC(BOSONS, model(BOSONS), orthogonal_to=known).run(60, archive=next_path, progress=False, watch=[Stop()])
    path.unlink()  # the archive of the run holds all that it needs
    resumed = nqs.resume(next_path, progress=False)
    assert resumed.estimate == whole.estimate
    assert resumed.overlaps == whole.overlaps
    assert nqs.resume(next_path, progress=False).overlaps == whole.overlaps
    with pytest.raises(nqs.ArchiveError, match="orthogonal_to"):
        VMC(BOSONS, model(BOSONS), orthogonal_to=[states[:, 1]]).run(60, archive=next_path, progress=False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
def test_sampled_run_above_a_wavefunction() -> None:
    """Both states sampled; the overlap comes with an error bar, the energy is without the penalty."""
    energies, _ = dense(BOSONS)
    ground, above = model(BOSONS), model(BOSONS, 1)
    VMC(BOSONS, ground).run(40, progress=False)
    VMC(BOSONS, above, orthogonal_to=[ground]).run(60, progress=False)
    sampling = TreeSampler(n_samples=2000)
    vmc = VMC(BOSONS, above, sampling, evaluation=TreeSampler(n_samples=20_000), orthogonal_to=[ground])
    result = vmc.run(10, progress=False)
    assert result.estimate.energy == pytest.approx(energies[1], abs=1e-3)
    value, error = result.overlaps[0]
    assert error > 0
    assert abs(value) < max(1e-5, 4 * error)
    rough = VMC(BOSONS, model(BOSONS, 2), sampling, evaluation=sampling, orthogonal_to=[ground]).run(2, progress=False)
    value, error = rough.overlaps[0]
    phi, psi = amplitudes(ground), amplitudes(vmc.wavefunction)
    assert abs(abs(phi.conj() @ psi) ** 2 - result.overlaps[0][0]) < max(1e-6, 5 * result.overlaps[0][1])
    assert 1e-4 < error < 0.1


@pytest.mark.usefixtures("unchecked")
def test_one_call_quotes_the_level_above() -> None:
    """Also from a positive ground state, whose network has no phases."""
    states = exact.lowest(BOSONS, 2).states
    result = nqs.ground_state(BOSONS, orthogonal_to=[states[0]], steps=60, device="cpu", progress=False)
    assert result.exact == pytest.approx(dense(BOSONS)[0][1])
    assert result.relative_error < 1e-6


def test_weights_exceed_the_distance_to_the_next_level_in_any_unit() -> None:
    for h in (BOSONS, SPINS, ELECTRONS, Heisenberg(chain(2), 0)):
        energies, states = dense(h)
        (known,) = VMC(h, model(h), orthogonal_to=[states[:, 0]]).orthogonal_to
        assert known.weight > energies[1] - energies[0]
    scaled = BoseHubbard(BOSONS.lattice, 3, U=4e3, J=1e3, potential=tuple(1e3 * x for x in BOSONS.potential))
    weights = [VMC(h, model(h), orthogonal_to=[dense(h)[1][:, 0]]).orthogonal_to[0].weight for h in (BOSONS, scaled)]
    assert weights[1] == pytest.approx(1e3 * weights[0])
    assert VMC(BOSONS, model(BOSONS), orthogonal_to=[states_of(BOSONS)], penalty=2.5).orthogonal_to[0].weight == 2.5


@every_model
@pytest.mark.parametrize("sampled", [False, True], ids=["vectors", "wavefunctions"])
def test_weights_exceed_the_distance_to_the_wanted_level_but_not_by_far(h: Hamiltonian, sampled: bool) -> None:
    """Of one, two and three lowest states; the bound is at most the mean of the spectrum."""
    energies, states = dense(h)
    for k in (1, 2, 3):
        vectors = [StateVector(h.hilbert, states[:, i]) if sampled else states[:, i] for i in range(k)]
        weights = np.array([known.weight for known in known_states(h, vectors)])
        distances = energies[k] - energies[:k]
        assert (weights > 1.3 * distances + 0.1).all()
        assert (weights < 3.01 * np.maximum(energies.mean() - energies[:k], energy_scale(h))).all()


def test_the_bound_on_the_next_level_is_that_of_trial_states() -> None:
    """(n_i - <n_i>)|0> made with dense matrices; a superposition of the next states needs no other bound."""
    energies, states = dense(BOSONS)
    H, k = exact.sparse_matrix(BOSONS).toarray(), states[:, 0]
    trial = []
    for site in range(4):
        for a in (1, 2, 3):
            o = (BOSONS.hilbert.configurations()[:, site] == a).double().numpy()
            phi = (o - k @ (o * k)) * k
            if phi @ phi > 1e-2:
                trial.append(phi @ H @ phi / (phi @ phi))
    (known,) = known_states(BOSONS, [k])
    assert known.weight == pytest.approx(2 * (min(trial) - energies[0]), rel=1e-9)
    assert min(trial) > energies[1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
def test_a_sampled_run_from_random_parameters_finds_the_next_state() -> None:
    """With 3 (E_inf - E_0), 18 times the gap, as the penalty it was at -1.75 of -1.865 after 80 steps."""
    energies, states = dense(BOSONS)
    vmc = VMC(
        BOSONS, model(BOSONS, 3), TreeSampler(n_samples=2000), evaluation=TreeSampler(n_samples=20_000),
        orthogonal_to=[states[:, 0]],
    )  # fmt: skip
    result = vmc.run(80, progress=False)
    assert result.estimate.energy == pytest.approx(energies[1], abs=max(2e-3, 4 * result.estimate.error))
    assert result.estimate.variance < 0.01


def states_of(h: Hamiltonian) -> np.ndarray:
    return dense(h)[1][:, 0]


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_a_known_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"build it with phase='learned'"):
        VMC(BOSONS, small_transformer(phase="zero").build(BOSONS.hilbert), orthogonal_to=[states_of(BOSONS)])
    with pytest.raises(ValueError, match="States of different sectors are orthogonal anyway"):
        VMC(BOSONS, model(BOSONS), orthogonal_to=[model(SPINS)])
    with pytest.raises(ValueError, match="has shape"):
        VMC(BOSONS, model(BOSONS), orthogonal_to=[np.ones(3)])
    with pytest.raises(ValueError, match="the weight of a penalty is a positive energy"):
        VMC(BOSONS, model(BOSONS), orthogonal_to=[states_of(BOSONS)], penalty=-1.0)
    with pytest.raises(TypeError, match="holds a int"):
        VMC(BOSONS, model(BOSONS), orthogonal_to=[3])
    with pytest.raises(ValueError, match="either a vector, or a model"):
        KnownState(weight=1.0)
    held = VMC(BOSONS, model(BOSONS), orthogonal_to=[StateVector(BOSONS.hilbert, states_of(BOSONS))]).orthogonal_to
    np.testing.assert_allclose(abs(held[0].vector), abs(states_of(BOSONS)), atol=1e-12)


# ---- the exact level above known states ---------------------------------------------------------------


def complement(h: Hamiltonian, vectors: np.ndarray) -> np.ndarray:
    """Levels of H in the orthogonal complement of the vectors, densely."""
    basis = np.linalg.svd(vectors)[2].conj()[len(vectors) :]  # rows
    return np.linalg.eigvalsh(basis.conj() @ exact.sparse_matrix(h).toarray() @ basis.T)


@every_model
@pytest.mark.parametrize("n_known", [1, 3])
def test_levels_in_the_complement_of_any_vectors(h: Hamiltonian, n_known: int) -> None:
    rng = np.random.default_rng(1)
    known = rng.standard_normal((n_known, h.hilbert.dimension))
    if h is MODELS["spins"] or h is MODELS["ring of spins"]:
        known = known + 1j * rng.standard_normal(known.shape)
    found = exact.lowest(h, 3, orthogonal_to=known)
    assert found.energies == pytest.approx(complement(h, known)[:3], abs=1e-10)
    assert abs(known.conj() @ found.states.T).max() < 1e-9
    assert abs(found.states.conj() @ found.states.T - np.eye(3)).max() < 1e-10


def test_vectors_that_leave_nothing_or_depend_on_each_other_are_refused() -> None:
    energies, states = dense(BOSONS)
    assert exact.lowest(BOSONS, 1, orthogonal_to=states.T[:-1]).energies == pytest.approx(energies[-1:])
    with pytest.raises(ValueError, match="the sector has 0 states besides the 20 given ones"):
        exact.lowest(BOSONS, 1, orthogonal_to=states.T)
    with pytest.raises(ValueError, match="not linearly independent"):
        exact.lowest(BOSONS, 1, orthogonal_to=np.stack([states[:, 0], states[:, 1], states[:, 0] - states[:, 1]]))
    with pytest.raises(ValueError, match="vectors of the 20 configurations"):
        exact.lowest(BOSONS, 1, orthogonal_to=np.ones((1, 3)))
    h = Heisenberg(chain(6), 0)
    with pytest.raises(ValueError, match="leave the symmetry out"):
        exact.lowest(h, 1, orthogonal_to=np.ones((1, 20)), symmetry=translations(chain(6), h.hilbert, momentum=(0,)))


@pytest.mark.usefixtures("unchecked")
def test_the_exact_level_is_the_lowest_one_orthogonal_to_the_given_states(capsys: Any) -> None:
    """Also if these are not the lowest ones, or no eigenstates."""
    energies, states = dense(BOSONS)
    mixed = (states[:, 0] + states[:, 2]) / 2**0.5
    cases = {
        "ground state": ([states[:, 0]], energies[1]),
        "a higher state": ([states[:, 2]], energies[0]),
        "ground state and a higher one": ([states[:, 3], states[:, 0]], energies[1]),
        "no eigenstate": ([mixed], complement(BOSONS, mixed[None])[0]),
        "a wavefunction": ([model(BOSONS, 3)], complement(BOSONS, amplitudes(model(BOSONS, 3))[None])[0]),
    }
    for name, (known, right) in cases.items():
        result = nqs.ground_state(BOSONS, orthogonal_to=known, steps=1, device="cpu", progress=True)
        assert result.exact == pytest.approx(right, abs=1e-9), name
        printed = capsys.readouterr().out
        assert ("is no eigenstate: the penalty" in printed) == (name in ("no eigenstate", "a wavefunction")), printed
    assert "above the 1 known state: exact E = " in printed


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
def test_a_run_above_a_state_that_is_no_eigenstate_ends_below_its_level_by_what_was_said() -> None:
    _, states = dense(BOSONS)
    mixed = (states[:, 0] + 0.2 * states[:, 1]) / 1.04**0.5
    H = exact.sparse_matrix(BOSONS).toarray()
    penalty = 30.0
    result = nqs.ground_state(BOSONS, orthogonal_to=[mixed], penalty=penalty, steps=100, device="cpu", progress=False)
    assert result.exact == pytest.approx(complement(BOSONS, mixed[None])[0])
    lowest = np.linalg.eigh(H + penalty * np.outer(mixed, mixed))[1][:, 0]
    assert result.estimate.energy == pytest.approx(lowest @ H @ lowest, abs=1e-5)
    (level,), ((said,), *_) = complement(BOSONS, mixed[None])[:1], (_said(mixed, penalty),)
    assert level - result.estimate.energy == pytest.approx(said, rel=0.1)


def _said(vector: np.ndarray, penalty: float) -> list[float]:
    """The numbers in the notes about a known state."""
    _, notes = level_above(BOSONS, known_states(BOSONS, [vector], penalty))
    return [float(note.split("end about ")[1].split()[0]) for note in notes]


@pytest.mark.usefixtures("unchecked")
def test_known_states_are_given_once() -> None:
    _, states = dense(BOSONS)
    ground = states[:, 0]
    for known in ([ground, states[:, 1], ground], [ground, -1j * ground], [model(BOSONS, 1), model(BOSONS, 1)]):
        with pytest.raises(ValueError, match=rf"states 1 and {len(known)} are the same state .* give each state once"):
            VMC(BOSONS, model(BOSONS), orthogonal_to=known)
    nearly = ground + 1e-4 * states[:, 3]
    with pytest.raises(ValueError, match="states 1 and 2 are the same"):
        nqs.ground_state(BOSONS, orthogonal_to=[ground, nearly / np.linalg.norm(nearly)], steps=1, device="cpu")
    assert len(VMC(BOSONS, model(BOSONS), orthogonal_to=[model(BOSONS, 1), model(BOSONS, 2)]).orthogonal_to) == 2


@pytest.mark.usefixtures("unchecked")
def test_penalties_that_are_too_small_are_refused_or_seen_in_the_result() -> None:
    energies, states = dense(BOSONS)
    gap = energies[1] - energies[0]
    with pytest.raises(ValueError, match=r"penalty=1 lifts the known state 1 from -3.16135 .* give more than 1.3, or"):
        nqs.ground_state(BOSONS, orthogonal_to=[states[:, 0]], penalty=1.0, steps=1, device="cpu", progress=False)
    assert level_above(BOSONS, known_states(BOSONS, [states[:, 0]], 1.01 * gap))[1] == []
    result = VMC(BOSONS, model(BOSONS), orthogonal_to=[states[:, 0]], penalty=0.2 * gap).run(60, progress=False)
    assert result.overlaps[0][0] > 0.9
    assert "not orthogonal to known state 1: more steps, or a larger penalty" in str(result)
    assert "not orthogonal" in result._repr_html_()
    with pytest.raises(ValueError, match="penalty=2: there is no known state"):
        VMC(BOSONS, model(BOSONS), penalty=2.0)


@pytest.mark.usefixtures("unchecked")
def test_a_single_state_is_no_list_of_states() -> None:
    for state in ("ground.h5", states_of(BOSONS), model(BOSONS)):
        with pytest.raises(TypeError, match="is no list of states: give a list of"):
            VMC(BOSONS, model(BOSONS), orthogonal_to=state)
        with pytest.raises(TypeError, match="is no list of states: give a list of"):
            nqs.ground_state(BOSONS, orthogonal_to=state, steps=1, device="cpu", progress=False)
