"""Local energies against (H psi)(n) / psi(n) from the whole matrix, and the count of network evaluations."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import small_transformer

import nqs.runtime.memory
from nqs import exact
from nqs.amplitudes.cache import Request, amplitudes_with_cache
from nqs.estimators import local_energy
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain, kagome, square
from nqs.models import Transformer
from nqs.protocols import LogPsi, Sampler, Wavefunction, max_connected
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samples import Samples

MODELS = {
    "chain": BoseHubbard(chain(4), 4, U=3.0, J=0.8, V=0.3),
    "flux": BoseHubbard(chain(4), 4, U=3.0, phases=(0.3, -0.5, 0.1, 1.2)),
    "antiperiodic, frustrated": BoseHubbard(chain(5, boundary="antiperiodic"), 3, U=1.0, J=-1.0, n_max=2),
    "grand-canonical": BoseHubbard(square(2, 2), U=5.0, mu=1.3, n_max=2, potential=(0.1, -0.2, 0.3, 0.0)),
    "kagome": BoseHubbard(kagome(1, 2, "open"), 3, U=2.0, n_max=2),
    "one configuration": BoseHubbard(chain(3), 3, U=1.0, V=0.7, n_max=1),
}
SAMPLERS: dict[str, Sampler] = {
    "exhaustive": ExhaustiveSampler(),
    "tree": TreeSampler(n_samples=40),
    "gumbel": GumbelSampler(n_distinct=9),
}
every_model = pytest.mark.parametrize("h", MODELS.values(), ids=MODELS)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def random_transformer(h: BoseHubbard, **options: int | str) -> Transformer:
    """Far from uniform, with phases of order one: the start of a run would not notice a wrong phase."""
    model = small_transformer(seed=5, **options).build(h.hilbert)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    return model


def draw(model: Wavefunction, sampler: Sampler) -> Samples:
    return sampler.build(model).sample(torch.Generator().manual_seed(2))


def by_the_matrix(h: BoseHubbard, model: Wavefunction, n: torch.Tensor) -> np.ndarray:
    """(H psi)(n) / psi(n) with psi on the whole sector."""
    with torch.no_grad():
        log_modulus, phase = model.log_psi(h.hilbert.configurations())
    psi = torch.polar(log_modulus.exp(), phase).numpy()
    return ((exact.sparse_matrix(h) @ psi) / psi)[h.hilbert.rank(n).numpy()]


def connected_outside(h: BoseHubbard, samples: Samples, rows: torch.Tensor | None = None) -> tuple[int, int]:
    """Number of connected configurations, of some samples or all, and of distinct ones that are not sampled."""
    known = {tuple(row) for row in samples.configurations.tolist()}
    some = samples.configurations if rows is None else samples.configurations[rows]
    connected = [tuple(row) for row in h.connected(some).configurations.tolist()]
    return len(connected), len(set(connected) - known)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Callable[[Wavefunction], list[int]]:
    """Wraps log_psi of a wavefunction; the list then grows by the size of every batch that it evaluates."""

    def count(model: Wavefunction) -> list[int]:
        sizes: list[int] = []
        original = model.log_psi

        def counting(n: torch.Tensor) -> LogPsi:
            sizes.append(len(n))
            return original(n)

        monkeypatch.setattr(model, "log_psi", counting, raising=True)
        return sizes

    return count


@every_model
@every_sampler
def test_local_energies_against_the_matrix(h: BoseHubbard, sampler: Sampler) -> None:
    model = random_transformer(h)
    samples = draw(model, sampler)
    found = local_energies(h, model, samples)
    expected = by_the_matrix(h, model, samples.configurations)
    assert found.values.dtype == torch.complex128
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-11, atol=1e-11)
    if h.hilbert.dimension > 1:
        assert np.abs(expected.imag).max() > 1e-2  # the phases were tested


@every_model
@every_sampler
def test_each_unknown_amplitude_is_evaluated_once(
    h: BoseHubbard, sampler: Sampler, evaluations: Callable[[Wavefunction], list[int]]
) -> None:
    model = random_transformer(h)
    samples = draw(model, sampler)
    sizes = evaluations(model)
    found = local_energies(h, model, samples)
    connected, outside = connected_outside(h, samples)
    assert found.n_connected == connected
    assert found.n_evaluated == sum(sizes) == outside
    assert found.fraction_saved == (pytest.approx(1 - outside / connected) if connected else 0.0)


@every_model
def test_exhaustive_samples_need_no_evaluation(
    h: BoseHubbard, evaluations: Callable[[Wavefunction], list[int]]
) -> None:
    model = random_transformer(h)
    samples = draw(model, ExhaustiveSampler())
    sizes = evaluations(model)
    found = local_energies(h, model, samples)
    assert sizes == []
    assert found.n_evaluated == 0
    assert found.fraction_saved == (1.0 if found.n_connected else 0.0)


@every_model
@every_sampler
@pytest.mark.parametrize("budget", [1, 20_000])
def test_chunks_change_the_cost_but_not_the_result(
    h: BoseHubbard,
    sampler: Sampler,
    budget: int,
    monkeypatch: pytest.MonkeyPatch,
    evaluations: Callable[[Wavefunction], list[int]],
) -> None:
    model = random_transformer(h)
    samples = draw(model, sampler)
    whole = local_energies(h, model, samples)
    monkeypatch.setattr(nqs.runtime.memory, "CPU_BYTES", budget)
    sizes = evaluations(model)
    pieces = local_energies(h, model, samples)
    torch.testing.assert_close(pieces.values, whole.values, rtol=1e-12, atol=1e-12)
    assert max(sizes, default=1) <= max(1, budget // model.bytes_per_configuration)
    assert pieces.n_connected == whole.n_connected
    assert pieces.n_evaluated == sum(sizes) >= whole.n_evaluated  # an amplitude may return in another piece
    assert 0 <= pieces.fraction_saved <= whole.fraction_saved


@pytest.mark.parametrize("name", ["chain", "flux"])
@pytest.mark.parametrize("waiting", ["all chunks", "some chunks", "no chunk"])
def test_chunks_of_samples_are_evaluated_together(name: str, waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    h = MODELS[name]
    model = random_transformer(h)
    samples = draw(model, GumbelSampler(n_distinct=9))
    whole = local_energies(h, model, samples)
    chunk = 2 * max_connected(h) * (2 * h.hilbert.n_sites + 256)  # two samples
    monkeypatch.setattr(local_energy, "CPU_BYTES", chunk)
    terms: list[int] = []
    original = local_energy.Sums.connect

    def connect(sums: local_energy.Sums, part: torch.Tensor) -> None:
        if waiting != "all chunks":
            sums.most_waiting = terms[0] if waiting == "some chunks" and terms else 0
        original(sums, part)
        terms.append(sums.waiting[-1].nbytes)

    monkeypatch.setattr(local_energy.Sums, "connect", connect)
    found = local_energies(h, model, samples)
    assert len(terms) == 5
    torch.testing.assert_close(found.values, whole.values, rtol=1e-12, atol=1e-12)
    outside = connected_outside(h, samples)[1]
    each = [connected_outside(h, samples, rows)[1] for rows in torch.arange(9).split(2)]
    assert found.n_connected == whole.n_connected
    assert whole.n_evaluated == outside < sum(each)
    if waiting == "all chunks":
        assert found.n_evaluated == outside
    elif waiting == "some chunks":
        assert outside < found.n_evaluated < sum(each)
    else:
        assert found.n_evaluated == sum(each)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_without_memory_fewer_chunks_are_evaluated_together(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every term is added once, whichever attempts fail."""
    h = MODELS["flux"]
    model = random_transformer(h)
    samples = draw(model, GumbelSampler(n_distinct=9))
    whole = local_energies(h, model, samples)
    original, asked = local_energy.amplitudes_of, []

    def limited(wavefunction: Wavefunction, samples: Samples, requests: list[Request]) -> object:
        if len(requests) > most:
            raise torch.OutOfMemoryError("too large")
        asked.append(len(requests))
        return original(wavefunction, samples, requests)

    monkeypatch.setattr(local_energy, "amplitudes_of", limited)
    monkeypatch.setattr(local_energy, "CPU_BYTES", max_connected(h) * (2 * h.hilbert.n_sites + 256))  # one sample
    found = local_energies(h, model, samples)
    assert sum(asked) == 9
    assert max(asked) <= most
    torch.testing.assert_close(found.values, whole.values, rtol=1e-12, atol=1e-12)
    assert found.n_connected == whole.n_connected
    assert found.n_evaluated >= whole.n_evaluated


@every_sampler
def test_order_of_the_samples_does_not_matter(sampler: Sampler) -> None:
    h = MODELS["flux"]
    model = random_transformer(h)
    samples = draw(model, sampler)
    order = torch.randperm(samples.n_distinct, generator=torch.Generator().manual_seed(0))
    fields = {f.name: getattr(samples, f.name) for f in dataclasses.fields(samples)}
    shuffled = Samples(
        **{name: value[order] if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
    )
    torch.testing.assert_close(
        local_energies(h, model, shuffled).values, local_energies(h, model, samples).values[order], rtol=1e-12, atol=0
    )


class Rescaled(Wavefunction):
    """Another wavefunction times exp(shift + i angle): not normalised, as any other wavefunction may be."""

    has_phase = True

    def __init__(self, model: Wavefunction, shift: float, angle: float) -> None:
        super().__init__()
        self.hilbert, self.model, self.shift, self.angle = model.hilbert, model, shift, angle

    def log_psi(self, n: torch.Tensor) -> LogPsi:
        log_modulus, phase = self.model.log_psi(n)
        return LogPsi(log_modulus + self.shift, phase + self.angle)

    @property
    def bytes_per_configuration(self) -> int:
        return self.model.bytes_per_configuration


@every_sampler
@pytest.mark.parametrize(("shift", "angle"), [(-3.0, 1.0), (-900.0, 0.0), (800.0, 40.0)])
def test_norm_and_global_phase_drop_out(sampler: Sampler, shift: float, angle: float) -> None:
    """Also where psi itself, exp(-900) or exp(800), would leave the range of floating-point numbers."""
    h = MODELS["flux"]
    model = random_transformer(h)
    samples = draw(model, sampler)
    moved = dataclasses.replace(samples, log_modulus=samples.log_modulus + shift, phase=samples.phase + angle)
    torch.testing.assert_close(
        local_energies(h, Rescaled(model, shift, angle), moved).values,
        local_energies(h, model, samples).values,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("name", ["chain", "flux", "grand-canonical"])
def test_mean_and_variance_over_the_sector_are_those_of_the_state(name: str) -> None:
    """sum_n |psi|^2 E_loc = <H>, and sum_n |psi|^2 |E_loc - <H>|^2 = <H^2> - <H>^2."""
    h = MODELS[name]
    model = random_transformer(h)
    samples = draw(model, ExhaustiveSampler())
    values = local_energies(h, model, samples).values.numpy()
    psi = torch.polar(samples.log_modulus.exp(), samples.phase).numpy()
    h_psi = exact.sparse_matrix(h) @ psi
    energy = np.vdot(psi, h_psi)
    weights = samples.weights.numpy()
    assert weights @ values == pytest.approx(energy, abs=1e-12)
    assert energy.imag == pytest.approx(0.0, abs=1e-12)
    variance = np.vdot(h_psi, h_psi).real - energy.real**2
    assert weights @ np.abs(values - energy) ** 2 == pytest.approx(variance, rel=1e-10)


def test_without_hopping_only_the_diagonal_is_left() -> None:
    h = BoseHubbard(chain(4), 3, U=2.0, J=0.0, V=0.4)
    model = random_transformer(h)
    samples = draw(model, TreeSampler(n_samples=20))
    found = local_energies(h, model, samples)
    torch.testing.assert_close(found.values, h.diagonal(samples.configurations).to(torch.complex128))
    assert found.n_connected == found.n_evaluated == 0
    assert found.fraction_saved == 0.0


def test_single_precision_networks_keep_double_precision_sums() -> None:
    h = MODELS["chain"]
    model = random_transformer(h, dtype="float32")
    samples = draw(model, TreeSampler(n_samples=40))
    found = local_energies(h, model, samples).values
    assert found.dtype == torch.complex128
    np.testing.assert_allclose(found.numpy(), by_the_matrix(h, model, samples.configurations), rtol=1e-4, atol=1e-4)


def test_no_graph_is_kept() -> None:
    h = MODELS["chain"]
    model = random_transformer(h)
    samples = draw(model, TreeSampler(n_samples=40))
    assert not local_energies(h, model, samples).values.requires_grad


def test_cache_answers_for_samples_and_asks_the_network_for_the_rest() -> None:
    h = MODELS["chain"]
    model = random_transformer(h)
    n = h.hilbert.configurations()
    log_modulus, phase = (part.detach() for part in model.log_psi(n))
    known = torch.arange(0, len(n), 2)
    marked = Samples(  # amplitudes that the network would not give: they must come from here
        configurations=n[known],
        weights=torch.full((len(known),), 1 / len(known), dtype=torch.float64),
        log_modulus=log_modulus[known] + 1000,
        phase=phase[known] + 1000,
    )
    asked = torch.tensor([3, 0, 3, 4, 5, 0])
    found, evaluated = amplitudes_with_cache(model, n[asked], marked)
    mark = 1000.0 * (asked % 2 == 0)
    assert evaluated == 2  # 3 once, and 5
    torch.testing.assert_close(found.log_modulus, log_modulus[asked] + mark)
    torch.testing.assert_close(found.phase, phase[asked] + mark)
