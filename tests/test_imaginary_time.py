"""Evolution in imaginary time against dense exponentials, and the natural gradient that follows it."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch.nn.utils import parameters_to_vector

from nqs import VMC, exact
from nqs.estimators.local_energy import LocalEnergies, local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import MarshallSign, OnOrbits, Transformer, TransformerConfig, WithReference
from nqs.optimisation import StochasticReconfiguration
from nqs.optimisation.imaginary_time import evolved
from nqs.optimisation.stochastic_reconfiguration import gain_ratio, log_of_one_plus
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.samplers import ExhaustiveSampler
from nqs.samples import Samples
from nqs.symmetry import symmetries_of, translations

SMALL = TransformerConfig(width=8, layers=1, heads=2, seed=3)
FLUX = BoseHubbard(chain(3), 3, U=2.0, phases=(0.5, -0.2, 0.9))
RING = BoseHubbard(chain(5), 5, U=3.0)
SPINS = Heisenberg(chain(8), 0.0)
ELECTRONS = FermiHubbard(square(2), 2, 1, U=3.0)


def on_orbits(h: Hamiltonian, **options: Any) -> Wavefunction:
    return OnOrbits(base=SMALL, symmetry=symmetries_of(h, **options)).build(h.hilbert)


STATES: dict[str, tuple[Hamiltonian, Wavefunction]] = {
    "flux": (FLUX, SMALL.build(FLUX.hilbert)),
    "orbits": (RING, on_orbits(RING)),
    "reference": (SPINS, WithReference(base=SMALL, reference=MarshallSign(sublattice=(0, 1) * 4)).build(SPINS.hilbert)),
    "electrons": (ELECTRONS, SMALL.build(ELECTRONS.hilbert)),
    "momentum": (
        RING,
        OnOrbits(base=SMALL, symmetry=translations(chain(5), RING.hilbert, momentum=(1,))).build(RING.hilbert),
    ),
}
every_state = pytest.mark.parametrize(("h", "psi"), STATES.values(), ids=STATES)


def batch(h: Hamiltonian, psi: Wavefunction) -> tuple[Samples, LocalEnergies]:
    samples = ExhaustiveSampler().sample(psi, torch.Generator())
    return samples, local_energies(h, psi, samples, elements=True)


def dense(local: LocalEnergies) -> np.ndarray:
    """H in the basis of the normalised amplitudes."""
    matrix = np.diag(local.diagonal.numpy()).astype(complex)
    assert local.elements is not None
    rows, columns, values = (x.numpy() for x in local.elements)
    np.add.at(matrix, (rows, columns), values)
    return matrix


@every_state
def test_elements_between_samples_are_the_hamiltonian(h: Hamiltonian, psi: Wavefunction) -> None:
    """Hermitian, with the local energies that were found without them, and no energy below the exact one."""
    samples, local = batch(h, psi)
    matrix = dense(local)
    np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-12)
    root = samples.weights.sqrt().numpy()
    np.testing.assert_allclose(matrix @ root / root, local.values.numpy(), rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(matrix)[0] >= exact.ground_state(h).energy - 1e-10


@pytest.mark.parametrize("name", ["flux", "orbits", "reference", "electrons"])
def test_their_lowest_eigenvalue_is_the_exact_energy(name: str) -> None:
    h, psi = STATES[name]
    assert np.linalg.eigvalsh(dense(batch(h, psi)[1]))[0] == pytest.approx(exact.ground_state(h).energy, abs=1e-10)


@every_state
@pytest.mark.parametrize("time", [1e-6, 0.3, 2.0])
def test_evolution_is_the_exponential(h: Hamiltonian, psi: Wavefunction, time: float) -> None:
    samples, local = batch(h, psi)
    root = samples.weights.sqrt()
    assert local.elements is not None
    used, moved = evolved(root, local.diagonal, local.elements, time, max_step=1e3)
    assert used == time
    expected = expm(-time * dense(local)) @ root.numpy()
    expected /= root.numpy() @ expected
    np.testing.assert_allclose(moved.numpy(), expected - root.numpy(), atol=1e-9 * min(1.0, time) * len(root))
    assert abs((root * moved).sum()) < 1e-10


def test_the_time_is_shortened_until_the_state_turns_little() -> None:
    samples, local = batch(*STATES["orbits"])
    assert local.elements is not None
    root = samples.weights.sqrt()
    used, moved = evolved(root, local.diagonal, local.elements, 5.0, max_step=0.1)
    assert 0 < used < 5.0
    assert 0.05 < torch.linalg.vector_norm(moved) <= 0.1


def test_an_eigenstate_stays() -> None:
    h, psi = STATES["flux"]
    local = batch(h, psi)[1]
    assert local.elements is not None
    states = np.linalg.eigh(dense(local))[1]
    # The phases of the ground state go into the basis, so that it is positive there.
    phase = states[:, 0] / abs(states[:, 0])
    rows, columns, values = local.elements
    turned = values * torch.from_numpy(phase)[columns] * torch.from_numpy(phase.conj())[rows]
    root = torch.from_numpy(abs(states[:, 0]))
    _, moved = evolved(root, local.diagonal, local.elements._replace(values=turned), 1.0, max_step=0.1)
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
    samples, local = batch(h, psi)
    assert local.elements is not None
    configuration = StochasticReconfiguration(max_step=1e-6, diagonal_shift=1e-10, final_diagonal_shift=1e-10)
    optimiser = configuration.completed(exact=True).build(psi)
    assert optimiser.propagates
    info = optimiser.step(samples, local.values, local.diagonal, 0.0, local.elements)
    assert 0.5e-6 < info.update_norm <= 1.01e-6
    root = samples.weights.sqrt()
    _, moved = evolved(root, local.diagonal, local.elements, info.learning_rate, max_step=1.0)
    wanted = moved / root
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
        (Ising(chain(8), h=1.0), TransformerConfig(width=8, layers=1, heads=2, phase="zero")),
        (SPINS, WithReference(base=SMALL, reference=MarshallSign(sublattice=(0, 1) * 4))),
        (FLUX, SMALL),
    ],
    ids=["bosons", "ising", "spins", "flux"],
)
def test_exact_runs_converge_to_rounding(h: Any, config: Any) -> None:
    """In a few dozen steps, whatever the width of the spectrum; the Ising chain is where diagonal steps are slow."""
    psi = (config if h is FLUX else OnOrbits(base=config, symmetry=symmetries_of(h))).build(h.hilbert)
    result = VMC(h, psi, ExhaustiveSampler()).run(60, exact=exact.ground_state(h), progress=False)
    assert -1e-13 < result.relative_error < 1e-10


def test_only_plain_exact_sums_are_propagated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while the optimiser is to see something else than the energy."""
    asked: list[bool] = []

    def spy(*args: Any, elements: bool = False) -> LocalEnergies:
        asked.append(elements)
        return local_energies(*args, elements=elements)

    monkeypatch.setattr("nqs.vmc.loop.local_energies", spy)
    for options, expected in (({}, True), ({"clip": 5.0}, False), ({"temperature": 1.0, "annealing": 1.0}, False)):
        asked.clear()
        VMC(RING, SMALL.build(RING.hilbert), ExhaustiveSampler()).run(2, progress=False, **options)
        assert asked == [expected, expected, False]  # the evaluation needs none
    asked.clear()
    without = StochasticReconfiguration(propagated=False)
    VMC(RING, SMALL.build(RING.hilbert), ExhaustiveSampler(), without).run(1, progress=False)
    assert asked == [False, False]


def test_near_their_end_exact_sums_may_only_go_down() -> None:
    """They go on from the state of lowest energy, also after an interruption."""
    psi = Transformer(RING.hilbert, SMALL)
    configuration = StochasticReconfiguration().completed(exact=True)
    optimiser = configuration.build(psi)
    samples, local = batch(RING, psi)
    lowest = parameters_to_vector(psi.parameters()).detach().clone()
    optimiser.step(samples, local.values, local.diagonal, 0.5, local.elements)
    higher = local.values + 1e-3
    assert optimiser.step(samples, higher, local.diagonal, 0.6, local.elements).learning_rate > 0
    copy = configuration.build(psi)
    copy.load_state_dict(optimiser.state_dict())
    for refusing in (copy, optimiser):
        assert refusing.step(samples, higher, local.diagonal, 0.85, local.elements).learning_rate == 0.0
        assert torch.equal(parameters_to_vector(psi.parameters()), lowest)


def test_annealed_exact_sums_end_free_of_the_free_energies_before() -> None:
    """A free energy is lower than any energy: no state is kept for it."""
    psi = OnOrbits(base=SMALL, symmetry=symmetries_of(RING)).build(RING.hilbert)
    vmc = VMC(RING, psi, ExhaustiveSampler())
    result = vmc.run(80, exact=exact.ground_state(RING), progress=False, temperature=3.0, annealing=0.25)
    assert result.relative_error < 1e-8
    assert (result.history["learning_rate"][-8:] > 0).any()
