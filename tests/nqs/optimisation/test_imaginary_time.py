"""Evolution in imaginary time against dense exponentials, and the natural gradient that follows it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import exact_steps, natural_gradient
from scipy.linalg import expm

from nqs import VMC, exact, recipes
from nqs.estimators.local_energy import local_energies
from nqs.exact import SectorMatrix
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import MarshallSign, OnOrbits, Transformer
from nqs.optimisation.exact_steps import SectorEnergy, normalised_amplitudes
from nqs.optimisation.imaginary_time import evolved
from nqs.optimisation.targets import gain_ratio, log_of_one_plus
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.recipes import OptimiserOptions
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.samples import Samples
from nqs.symmetry import symmetries_of, translations
from nqs.vmc.guard import Guard

SMALL = small_transformer(seed=3)
FLUX = BoseHubbard(chain(3), 3, U=2.0, phases=(0.5, -0.2, 0.9))
RING = BoseHubbard(chain(5), 5, U=3.0)
SPINS = Heisenberg(chain(8), 0.0)
ELECTRONS = FermiHubbard(square(2), 2, 1, U=3.0)


def on_orbits(h: Hamiltonian, **options: Any) -> Wavefunction:
    return OnOrbits(base=SMALL, symmetry=symmetries_of(h, **options)).build(h.hilbert)


STATES: dict[str, tuple[Hamiltonian, Wavefunction]] = {
    "flux": (FLUX, SMALL.build(FLUX.hilbert)),
    "orbits": (RING, on_orbits(RING)),
    "reference": (SPINS, replace(SMALL, reference=MarshallSign(sublattice=(0, 1) * 4)).build(SPINS.hilbert)),
    "electrons": (ELECTRONS, SMALL.build(ELECTRONS.hilbert)),
    "momentum": (
        RING,
        OnOrbits(base=SMALL, symmetry=translations(chain(5), RING.hilbert, momentum=(1,))).build(RING.hilbert),
    ),
}
every_state = pytest.mark.parametrize(("h", "psi"), STATES.values(), ids=STATES)


def batch(h: Hamiltonian, psi: Wavefunction) -> tuple[Samples, SectorMatrix]:
    """All configurations or orbits, and H between them."""
    samples = ExhaustiveSampler().build(psi).sample(torch.Generator())
    return samples, SectorEnergy(h).matrix(psi, samples)


def dense(matrix: SectorMatrix) -> np.ndarray:
    return matrix.to_scipy().toarray()


@every_state
def test_the_matrix_is_the_hamiltonian(h: Hamiltonian, psi: Wavefunction) -> None:
    """Hermitian, with the local energies that are found without it, and no energy below the exact one."""
    samples, matrix = batch(h, psi)
    np.testing.assert_allclose(dense(matrix), dense(matrix).conj().T, atol=1e-12)
    found, expected = SectorEnergy(h).local(psi, samples), local_energies(h, psi, samples)
    np.testing.assert_allclose(found.values.numpy(), expected.values.numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.diagonal.numpy(), expected.diagonal.numpy())
    assert np.linalg.eigvalsh(dense(matrix))[0] >= exact.ground_state(h).energy - 1e-10


@pytest.mark.parametrize("name", ["flux", "orbits", "reference", "electrons"])
def test_their_lowest_eigenvalue_is_the_exact_energy(name: str) -> None:
    h, psi = STATES[name]
    assert np.linalg.eigvalsh(dense(batch(h, psi)[1]))[0] == pytest.approx(exact.ground_state(h).energy, abs=1e-10)


@every_state
@pytest.mark.parametrize("time", [1e-6, 0.3, 2.0])
def test_evolution_is_the_exponential(h: Hamiltonian, psi: Wavefunction, time: float) -> None:
    samples, matrix = batch(h, psi)
    x = normalised_amplitudes(samples)
    used, moved = evolved(x, matrix, time, max_step=1e3)
    assert used == time
    expected = expm(-time * dense(matrix)) @ x.numpy()
    expected /= x.numpy().conj() @ expected
    np.testing.assert_allclose(moved.numpy(), expected - x.numpy(), atol=1e-9 * min(1.0, time) * len(x))
    assert abs((x.conj() * moved).sum()) < 1e-10


def test_the_time_is_shortened_until_the_state_turns_little() -> None:
    samples, matrix = batch(*STATES["orbits"])
    used, moved = evolved(normalised_amplitudes(samples), matrix, 5.0, max_step=0.1)
    assert 0 < used < 5.0
    assert 0.05 < torch.linalg.vector_norm(moved) <= 0.1


def test_an_eigenstate_stays() -> None:
    h, psi = STATES["flux"]
    matrix = batch(h, psi)[1]
    state = torch.from_numpy(np.linalg.eigh(dense(matrix))[1][:, 0])
    _, moved = evolved(state, matrix, 1.0, max_step=0.1)
    assert moved.abs().max() < 1e-12


def test_log_of_one_plus() -> None:
    x = torch.tensor([1e-12 + 2e-13j, 0.3 - 0.4j, -0.5 + 0j, -1.5 + 1e-3j, -1 + 0j, 50 + 0j], dtype=torch.complex128)
    found = log_of_one_plus(x)
    expected = np.array([1e-12 + 2e-13j, *np.log(1 + x.numpy()[1:3])])
    np.testing.assert_allclose(found.numpy()[:3], expected, rtol=1e-9)
    assert found.imag[3] == pytest.approx(np.pi, abs=3e-3)
    assert found.real[4:].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", ["flux", "orbits", "reference"])
def test_a_short_step_is_the_evolution(name: str) -> None:
    """With enough parameters log psi changes as the evolution says, to first order in the length of the step."""
    h, psi = STATES[name]
    psi = psi.config.build(h.hilbert)  # fresh
    samples, matrix = batch(h, psi)
    config = exact_steps(max_step=1e-6, diagonal_shift=1e-10, final_diagonal_shift=1e-10)
    objective = config.objective(h)
    info = config.build(psi, objective).step(samples, objective.local(psi, samples), 0.0)
    assert 0.5e-6 < info.update_norm <= 1.01e-6
    x = normalised_amplitudes(samples)
    _, moved = evolved(x, matrix, info.learning_rate, max_step=1.0)
    wanted = moved / x
    after = psi.log_psi(samples.configurations)
    made = torch.complex(after.log_modulus - samples.log_modulus, after.phase - samples.phase)
    made = made - (samples.weights * made).sum()
    off = (samples.weights * (made - wanted).abs().square()).sum().sqrt()
    assert off < 0.03 * (samples.weights * wanted.abs().square()).sum().sqrt()


def test_gain_is_one_for_a_linear_step_and_small_for_one_that_went_astray() -> None:
    h, psi = STATES["orbits"]
    psi = psi.config.build(h.hilbert)
    samples, _ = batch(h, psi)
    with torch.no_grad():
        for p in psi.parameters():
            p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    after = psi.log_psi(samples.configurations)
    moved = torch.cat([after.log_modulus - samples.log_modulus, after.phase - samples.phase])
    U = samples.n_distinct
    moved = moved - torch.stack([samples.weights @ moved[:U], samples.weights @ moved[U:]]).repeat_interleave(U)
    rows = moved * samples.weights.sqrt().repeat(2)
    ones = torch.ones_like(rows)
    assert gain_ratio(psi, samples, rows, rows, ones) == pytest.approx(1.0)
    assert gain_ratio(psi, samples, -rows, -rows, ones) == pytest.approx(-3.0)
    assert np.isnan(gain_ratio(psi, samples, rows, 0 * rows, ones))


@pytest.mark.parametrize(
    ("h", "config"),
    [
        (RING, SMALL),
        (Ising(chain(8), h=1.0), small_transformer(phase="zero")),
        (SPINS, replace(SMALL, reference=MarshallSign(sublattice=(0, 1) * 4))),
        (FLUX, SMALL),
    ],
    ids=["bosons", "ising", "spins", "flux"],
)
@pytest.mark.usefixtures("unchecked")
def test_exact_runs_converge_to_rounding(h: Any, config: Any) -> None:
    """In a few dozen steps, whatever the width of the spectrum; the Ising chain is where diagonal steps are slow."""
    psi = (config if h is FLUX else OnOrbits(base=config, symmetry=symmetries_of(h))).build(h.hilbert)
    result = VMC(h, psi, ExhaustiveSampler()).run(60, exact=exact.ground_state(h), progress=False)
    assert -1e-13 < result.relative_error < 1e-10


def test_only_plain_exact_sums_use_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while the optimiser is to see something else than the energy; the matrix is built once a run."""
    built: list[Hamiltonian] = []
    of = SectorMatrix.of

    def spy(hamiltonian: Hamiltonian, *args: Any, **options: Any) -> SectorMatrix:
        built.append(hamiltonian)
        return of(hamiltonian, *args, **options)

    monkeypatch.setattr(SectorMatrix, "of", spy)
    for options, expected in (
        ({}, 1),
        ({"temperature": 1.0, "annealing": 1.0}, 0),
        ({"temperature": 1.0, "annealing": 0.5}, 1),
    ):
        built.clear()
        VMC(RING, SMALL.build(RING.hilbert), ExhaustiveSampler()).run(4, progress=False, **options)
        assert len(built) == expected
    built.clear()
    VMC(RING, SMALL.build(RING.hilbert), ExhaustiveSampler(), natural_gradient()).run(1, progress=False)
    assert not built


def test_exact_steps_say_what_they_need() -> None:
    psi = SMALL.build(RING.hilbert)
    with pytest.raises(ValueError, match="need the matrix of the Hamiltonian"):
        exact_steps().build(psi)
    few = TreeSampler(n_distinct=5).build(psi).sample(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="sum over the whole sector of 126 terms; the sampler gave"):
        exact_steps().objective(RING).local(psi, few)
    with pytest.raises(ValueError, match="time=0: it must be a positive number"):
        exact_steps(time=0)
    given = OptimiserOptions(learning_rate=0.5, max_step=0.3, memory=1.0)
    assert recipes.optimiser(given, exact=True) == exact_steps(time=0.5, max_step=0.3, memory=1.0)
    assert recipes.optimiser(exact=True) == exact_steps()
    for option in ({"momentum": 0.5}, {"final_learning_rate": 0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=0.*whole sector"):
            recipes.optimiser(OptimiserOptions(**option), exact=True)


def test_near_their_end_exact_sums_may_only_go_down() -> None:
    """They go on from the state of lowest energy, also after an interruption."""
    psi = Transformer(RING.hilbert, SMALL)
    objective = exact_steps().objective(RING)
    optimiser, guard = exact_steps().build(psi, objective), Guard(psi.parameters())
    samples = ExhaustiveSampler().build(psi).sample(torch.Generator())
    local = objective.local(psi, samples)
    lowest = guard.current()
    assert not guard.rose(samples, local, 0.5)
    optimiser.step(samples, local, 0.5)
    after, higher = guard.current(), replace(local, values=local.values + 1e-3)
    assert not guard.rose(samples, higher, 0.6)
    copy = Guard(psi.parameters())
    copy.load_state_dict(optimiser.state_dict() | guard.state_dict(), None, 1.0)
    for judging in (copy, guard):
        guard.restore(after)
        assert judging.rose(samples, higher, 0.85)
        assert torch.equal(guard.current(), lowest)


@pytest.mark.usefixtures("unchecked")
def test_annealed_exact_sums_end_free_of_the_free_energies_before() -> None:
    """A free energy is lower than any energy: no state is kept for it."""
    psi = OnOrbits(base=SMALL, symmetry=symmetries_of(RING)).build(RING.hilbert)
    vmc = VMC(RING, psi, ExhaustiveSampler())
    result = vmc.run(80, exact=exact.ground_state(RING), progress=False, temperature=3.0, annealing=0.25)
    assert result.relative_error < 1e-8
    assert (result.history["learning_rate"][-8:] > 0).any()
