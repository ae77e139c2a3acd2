"""Symmetric states: against sums over the whole group and the whole space, sampled, differentiated and optimised."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from networks import small_transformer
from optimisers import natural_gradient
from torch import Tensor
from torch.nn.utils import parameters_to_vector

import nqs.optimisation.jacobian
from nqs import VMC, Archive, exact, resume
from nqs.amplitudes import prefixes
from nqs.estimators.local_energy import local_energies
from nqs.exact import lowest_sector
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, staggered_potential
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain
from nqs.models import (
    MarshallSign,
    OnOrbits,
    ProjectedDeterminant,
    Symmetrised,
    hartree_fock,
)
from nqs.models.symmetric.average import SymmetrisedWavefunction
from nqs.models.symmetric.on_orbits import OrbitWavefunction
from nqs.models.symmetric.wavefunction import SymmetricWavefunction
from nqs.optimisation.jacobian import jacobian
from nqs.protocols import AutoregressiveWavefunction, Conditionals, Hamiltonian, Wavefunction
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samples import Samples
from nqs.symmetry import Symmetry, space_group, spin_flip, symmetries_of, translations
from nqs.symmetry.orbit_space import OrbitSpace
from nqs.transfer import load
from nqs.vmc import RunConfig
from nqs.vmc.steps import Step, make_step

from matrices import dense

BASE = small_transformer(width=4, heads=1, mlp_ratio=1, seed=3)
RING = chain(4)
P_VALUE = 1e-4
SUBGROUP = "bosons, steps over a subgroup"


def electrons() -> tuple[Hamiltonian, Symmetrised]:
    h = FermiHubbard(RING, 2, 2, U=4.0)
    determinant, sector, _ = lowest_sector(h, symmetries_of(h, fermions=True), hartree_fock(h).solutions)
    projected = ProjectedDeterminant(determinant=determinant, symmetry=sector, hilbert=h.hilbert)
    return h, Symmetrised(base=replace(BASE, reference=projected), symmetry=sector)


def with_symmetry(h: Hamiltonian, symmetry: Symmetry) -> tuple[Hamiltonian, Symmetrised]:
    return h, Symmetrised(base=BASE, symmetry=symmetry)


BOSONS, SPINS, FERMIONS = BoseHubbard(RING, 4, U=2.0), Heisenberg(chain(6), 0.0), TV(chain(6), 2, V=1.0)
MARSHALL = MarshallSign(sublattice=(0, 1) * 3)
CASES: dict[str, tuple[Hamiltonian, Symmetrised | OnOrbits]] = {
    "bosons": with_symmetry(BOSONS, space_group(RING, BOSONS.hilbert)),
    "bosons with momentum": with_symmetry(BOSONS, translations(RING, BOSONS.hilbert, momentum=(1,))),
    "spins, odd": with_symmetry(
        SPINS, translations(chain(6), SPINS.hilbert, momentum=(3,)) @ spin_flip(SPINS.hilbert, odd=True)
    ),
    "spins with a reference": (
        SPINS,
        Symmetrised(base=replace(BASE, reference=MARSHALL), symmetry=space_group(chain(6), SPINS.hilbert)),
    ),
    "fermions around a ring": with_symmetry(
        FERMIONS, translations(chain(6), FERMIONS.hilbert, momentum=(2,), fermions=True)
    ),
    "electrons": electrons(),
}
AVERAGED = tuple(CASES)
CASES |= {
    f"{name}, on orbits": (h, OnOrbits(base=config.base, symmetry=config.symmetry))
    for name, (h, config) in CASES.items()
}
FORBIDDING = ["bosons with momentum", "fermions around a ring", "electrons"]
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def lively(name: str) -> SymmetricWavefunction:
    """Far from uniform, so that the members of an orbit have very different probabilities in the base."""
    h, config = CASES[name]
    model = config.build(h.hilbert)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def amplitudes(model: Wavefunction, n: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        log_modulus, phase = model.log_psi(model.hilbert.configurations() if n is None else n)
    return torch.polar(log_modulus.exp(), phase)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the state ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVERAGED)
def test_images_that_share_prefixes_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MIN_ROWS", 1)
    h, model = CASES[name][0], lively(name)
    n = h.hilbert.configurations()
    with_gradients = model.log_psi(n)
    evaluated = []
    shared = type(model.base).log_psi_in_order
    monkeypatch.setattr(
        type(model.base), "log_psi_in_order", lambda *args: evaluated.append(len(args[1])) or shared(*args)
    )
    with torch.no_grad():
        without = model.log_psi(n)
    assert sum(evaluated) == h.hilbert.dimension  # each configuration once, though it is an image of several
    possible = without.log_modulus > -torch.inf
    assert torch.equal(possible, with_gradients.log_modulus > -torch.inf)
    for a, b in zip(without, with_gradients, strict=True):
        torch.testing.assert_close(a[possible], b[possible].detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", AVERAGED)
def test_probability_is_the_average_over_the_group(name: str) -> None:
    model = lively(name)
    hilbert, group = model.hilbert, model.symmetry
    n = hilbert.configurations()
    p = amplitudes(model.base).abs().square()
    average = p[hilbert.rank(group.images(n).flatten(0, 1))].view(-1, group.order).mean(1)
    forbidden = group.forbidden(n, hilbert)
    psi = amplitudes(model)
    torch.testing.assert_close(psi.abs().square(), average.masked_fill(forbidden, 0.0), rtol=1e-11, atol=1e-15)
    assert psi.abs().square().sum().item() == pytest.approx(1 - average[forbidden].sum().item(), abs=1e-12)
    assert p.max() / p.min() > 2
    assert bool(forbidden.any()) == (name in FORBIDDING)


@pytest.mark.parametrize("name", [name for name in CASES if name not in AVERAGED])
def test_probability_is_spread_evenly_over_orbits(name: str) -> None:
    model = lively(name)
    hilbert, space = model.hilbert, model.base.hilbert
    n, sizes = model.symmetry.orbits(hilbert)
    p = amplitudes(model.base, n).abs().square()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(amplitudes(model, n).abs().square(), p / sizes, rtol=1e-11, atol=1e-15)
    psi = amplitudes(model)
    assert psi.abs().square().sum().item() == pytest.approx(1, abs=1e-12)
    assert (psi[model.symmetry.forbidden(hilbert.configurations(), hilbert)] == 0).all()
    # The space of representatives is itself a sector: ranked, listed and sampled.
    assert space.dimension == len(n)
    assert space.configurations().equal(n)
    assert space.rank(n).equal(torch.arange(len(n)))
    assert space.contains(hilbert.configurations()).sum() == len(n)
    counts = torch.bincount(space.rank(space.random(20_000, seeded(3))), minlength=len(n))
    assert chi_square(counts, sizes.double() / sizes.sum()) > P_VALUE


def test_a_symmetry_that_forbids_everything_is_refused() -> None:
    empty = BoseHubbard(RING, 0, U=1.0)  # one configuration, of momentum 0
    with pytest.raises(ValueError, match="forbids every configuration of 4 sites"):
        OnOrbits(base=BASE, symmetry=translations(RING, empty.hilbert, momentum=(1,))).build(empty.hilbert)


@every_case
def test_state_vanishes_outside_the_sector(name: str) -> None:
    model = lively(name)
    hilbert = model.hilbert
    n = torch.cartesian_prod(*[torch.arange(hilbert.local_dim, dtype=torch.uint8)] * hilbert.n_sites)
    outside = n[~hilbert.contains(n)]
    with torch.no_grad():
        log_modulus = model(outside).log_modulus
    assert len(outside)
    assert (log_modulus == -math.inf).all()


@every_case
def test_state_obeys_the_symmetry(name: str) -> None:
    model = lively(name)
    n, group, psi = model.hilbert.configurations(), model.symmetry, amplitudes(model)
    images = group.images(n)
    for g in range(group.order):
        c = group.phases(n, torch.full((len(n),), g), model.hilbert)
        expected = torch.polar(torch.ones_like(c), c) * psi
        torch.testing.assert_close(psi[model.hilbert.rank(images[:, g])], expected, rtol=1e-11, atol=1e-14)


@every_case
def test_amplitudes_follow_from_representatives(name: str) -> None:
    model = lively(name)
    representatives, angle = model.fold(model.hilbert.configurations())
    unfolded = amplitudes(model, representatives) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(unfolded, amplitudes(model), rtol=1e-12, atol=1e-15)


def test_phases_are_those_of_the_base_projected_on_the_sector() -> None:
    for name in ("bosons", "spins with a reference", "electrons"):
        model = lively(name)
        hilbert, group = model.hilbert, model.symmetry
        n, base = hilbert.configurations(), amplitudes(model.base)
        projected = torch.zeros_like(base)
        for g in range(group.order):  # sum_g c_g* (U_g psi)
            element = torch.full((len(n),), g)
            c = group.phases(n, element, hilbert)
            projected += torch.polar(torch.ones_like(c), -c) * base[hilbert.rank(group.image(n, element))]
        possible = amplitudes(model).abs() > 0
        ratio = (amplitudes(model) / projected)[possible]
        torch.testing.assert_close(ratio.imag / ratio.abs(), torch.zeros_like(ratio.imag), rtol=0, atol=1e-10)
        assert (ratio.real > 0).all()


# ---- samples -----------------------------------------------------------------------------------------------------


def chi_square(observed: Tensor, p: Tensor) -> float:
    """p-value of counts; rare outcomes count together."""
    total = int(observed.sum())
    expected, found = (p * total).numpy(), observed.double().numpy()
    assert not found[expected == 0].any()
    common = expected >= 5
    found = np.append(found[common], found[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    keep = expected > 0
    return float(scipy.stats.chisquare(found[keep], expected[keep] * (total / expected[keep].sum())).pvalue)


@every_case
def test_samples_and_unfolded_samples_are_distributed_like_the_state(name: str) -> None:
    model = lively(name)
    hilbert = model.hilbert
    p = amplitudes(model).abs().square()
    p = p / p.sum()
    folded = TreeSampler(n_samples=20_000).build(model).sample(seeded(1))
    assert folded.counts is not None
    representatives, _ = model.fold(folded.configurations)
    assert representatives.equal(folded.configurations)
    of_orbit = torch.zeros_like(p).index_add_(0, hilbert.rank(model.fold(hilbert.configurations())[0]), p)
    counts = torch.zeros(hilbert.dimension, dtype=torch.int64)
    counts[hilbert.rank(folded.configurations)] = folded.counts
    assert chi_square(counts, of_orbit) > P_VALUE

    unfolded = model.to_sector_samples(folded, seeded(2))
    assert unfolded.counts is not None
    assert unfolded.counts.sum() == folded.counts.sum()
    assert len(hilbert.rank(unfolded.configurations).unique()) == unfolded.n_distinct
    counts = torch.zeros(hilbert.dimension, dtype=torch.int64)
    counts[hilbert.rank(unfolded.configurations)] = unfolded.counts
    assert chi_square(counts, p) > P_VALUE
    for samples in (folded, unfolded):
        assert samples.weights.sum().item() == pytest.approx(1)
        found = torch.polar(samples.log_modulus.exp(), samples.phase)
        torch.testing.assert_close(found, amplitudes(model, samples.configurations), rtol=1e-11, atol=1e-14)


def test_the_chi_square_here_sees_what_was_not_unfolded() -> None:
    """The base alone has another distribution."""
    model = lively("bosons")
    samples = TreeSampler(n_samples=20_000).build(model.base).sample(seeded(1))
    counts = torch.zeros(model.hilbert.dimension, dtype=torch.int64)
    assert samples.counts is not None
    counts[model.hilbert.rank(samples.configurations)] = samples.counts
    assert chi_square(counts, amplitudes(model).abs().square()) < 1e-12


@every_case
def test_exhaustive_sum_has_the_weights_of_whole_orbits(name: str) -> None:
    model = lively(name)
    samples = ExhaustiveSampler().build(model).sample(seeded())
    p = amplitudes(model).abs().square()
    rank = model.hilbert.rank(model.fold(model.hilbert.configurations())[0])
    of_orbit = torch.zeros_like(p).index_add_(0, rank, p)[model.hilbert.rank(samples.configurations)] / p.sum()
    torch.testing.assert_close(samples.weights, of_orbit, rtol=1e-11, atol=1e-15)
    assert of_orbit.sum().item() == pytest.approx(1)
    unfolded = model.to_sector_samples(samples, seeded())
    psi = torch.zeros(model.hilbert.dimension, dtype=torch.complex128)
    psi[model.hilbert.rank(unfolded.configurations)] = torch.polar(unfolded.log_modulus.exp(), unfolded.phase)
    torch.testing.assert_close(psi, amplitudes(model), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(
        unfolded.weights, (psi.abs().square() / p.sum())[model.hilbert.rank(unfolded.configurations)]
    )


def test_sampling_without_replacement_is_refused() -> None:
    with pytest.raises(ValueError, match=r"independent draws.*without replacement.*use TreeSampler"):
        GumbelSampler(n_distinct=5).build(lively("bosons")).sample(seeded())


# ---- energies and gradients --------------------------------------------------------------------------------------


@every_case
def test_local_energies_are_those_of_the_whole_state(name: str) -> None:
    h, model = CASES[name][0], lively(name)
    psi = amplitudes(model).numpy()
    applied = dense(h) @ psi
    for sampler in (ExhaustiveSampler(), TreeSampler(n_samples=8)):
        samples = sampler.build(model).sample(seeded(4))
        rank = h.hilbert.rank(samples.configurations).numpy()
        local = local_energies(h, model, samples)
        np.testing.assert_allclose(local.values.numpy(), applied[rank] / psi[rank], rtol=1e-9, atol=1e-9)
        if isinstance(sampler, ExhaustiveSampler):
            assert local.n_evaluated <= h.hilbert.dimension - samples.n_distinct
            energy = np.vdot(psi, applied).real / np.vdot(psi, psi).real
            assert (samples.weights @ local.values.real).item() == pytest.approx(energy, rel=1e-10)
        unfolded = model.to_sector_samples(samples, seeded(5))
        rank = h.hilbert.rank(unfolded.configurations).numpy()
        found = local_energies(h, Plain(model), unfolded).values.numpy()
        np.testing.assert_allclose(found, applied[rank] / psi[rank], rtol=1e-9, atol=1e-9)


class Plain(Wavefunction):
    """The same amplitudes without anything known of their symmetry."""

    def __init__(self, model: Wavefunction) -> None:
        super().__init__()
        self.model, self.hilbert = model, model.hilbert
        self.log_psi = model.log_psi  # type: ignore[method-assign]

    def log_psi(self, n: Tensor) -> Any: ...

    @property
    def bytes_per_configuration(self) -> int:
        return self.model.bytes_per_configuration


@every_case
def test_gradients_are_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CASES[name][1].build(CASES[name][0].hilbert)
    model.load_state_dict(lively(name).state_dict())
    n = model.symmetry.orbits(model.hilbert).representatives[:6]
    by_layers = jacobian(model, n)
    monkeypatch.setattr(nqs.optimisation.jacobian, "all_layers_known", lambda _: False)
    by_vmap = jacobian(model, n)
    start = parameters_to_vector(model.parameters()).detach().clone()
    direction = torch.randn(len(start), generator=seeded(), dtype=torch.float64)
    ends = []
    for step in (1e-6, -1e-6):
        torch.nn.utils.vector_to_parameters(start + step * direction, model.parameters())
        with torch.no_grad():
            ends.append(model.log_psi(n))
    for part in range(2):
        layers, vmap = by_layers[part], by_vmap[part]
        assert layers is not None
        torch.testing.assert_close(layers, vmap, rtol=1e-9, atol=1e-12)
        slopes = (ends[0][part] - ends[1][part]) / 2e-6
        torch.testing.assert_close(layers @ direction, slopes, rtol=1e-6, atol=1e-7)
        assert slopes.abs().max() > 0.1


class Table(AutoregressiveWavefunction[Any]):
    """Conditionals of a given state, its phase on the last site."""

    has_phase = True
    bytes_per_configuration = 10**4

    def __init__(self, hilbert: HilbertSpace, psi: np.ndarray) -> None:
        super().__init__()
        self.hilbert, self.psi, self.all = hilbert, torch.from_numpy(psi), hilbert.configurations()

    def conditionals(self, n: Tensor) -> Conditionals:
        L, d, p = self.hilbert.n_sites, self.hilbert.local_dim, self.psi.abs().square()
        log_p = torch.zeros(len(n), L, d, dtype=torch.float64)
        phase = torch.zeros_like(log_p)
        for site in range(L):
            alike = (n[:, None, :site] == self.all[:, :site]).all(2).double()  # (B, dimension)
            of_state = (self.all[:, site, None] == torch.arange(d)).double()
            joint = (alike * p) @ of_state
            log_p[:, site] = (joint / joint.sum(1, keepdim=True)).nan_to_num(1 / d).log()
        phase[:, -1] = self.psi.angle()[self.hilbert.rank(n).clamp(max=len(self.psi) - 1)][:, None]
        return Conditionals(log_p, phase)

    def start(self, batch: int) -> Any:
        raise NotImplementedError

    def step(self, tokens: Any, state: Any) -> Any:
        raise NotImplementedError


@every_case
def test_exact_states_of_a_sector_have_no_variance(name: str) -> None:
    h, config = CASES[name]
    psi = lowest_of_sector(h, config.symmetry)[1]
    model: SymmetricWavefunction
    if isinstance(config, OnOrbits):
        n, sizes = config.symmetry.orbits(h.hilbert)
        of_orbits = psi[h.hilbert.rank(n).numpy()] * np.sqrt(sizes.numpy())
        model = OrbitWavefunction(config, Table(OrbitSpace.of(h.hilbert, config.symmetry), of_orbits), h.hilbert)
    else:
        model = SymmetrisedWavefunction(config, Table(h.hilbert, psi))
    samples = ExhaustiveSampler().build(model).sample(seeded())
    possible = samples.weights > 1e-12
    local = local_energies(h, model, samples).values[possible]
    np.testing.assert_allclose(local.numpy(), lowest_of_sector(h, config.symmetry)[0], atol=1e-5)
    assert abs(np.vdot(psi, amplitudes(model).numpy())) == pytest.approx(1, abs=1e-10)


def lowest_of_sector(h: Hamiltonian, group: Symmetry) -> tuple[float, np.ndarray]:
    """Lowest level and its state, by diagonalising P H P on the whole space."""
    hilbert, n = h.hilbert, h.hilbert.configurations()
    P = np.zeros((hilbert.dimension,) * 2, dtype=complex)
    for g in range(group.order):
        element = torch.full((len(n),), g)
        c = np.exp(1j * group.phases(n, element, hilbert).numpy())
        P[np.arange(len(n)), hilbert.rank(group.image(n, element)).numpy()] += c.conj() / group.order
    np.testing.assert_allclose(P @ P, P, atol=1e-10)
    energies, states = np.linalg.eigh(P @ dense(h) @ P + 1e3 * (np.eye(len(P)) - P))
    return float(energies[0]), states[:, 0]


# ---- runs --------------------------------------------------------------------------------------------------------


def run(name: str, **options: Any) -> VMC:
    h, config = (CASES["bosons"][0], by_two_sites()) if name == SUBGROUP else CASES[name]
    return VMC(h, config.build(h.hilbert), **options)


@pytest.mark.parametrize("name", [name + kind for name in (*FORBIDDING, "spins, odd") for kind in ("", ", on orbits")])
@pytest.mark.usefixtures("unchecked")
def test_a_run_finds_the_lowest_level_of_its_sector(name: str) -> None:
    h, config = CASES[name]
    base = small_transformer(seed=1, reference=config.base.reference)
    model = type(config)(base=base, symmetry=config.symmetry).build(h.hilbert)
    result = VMC(h, model, ExhaustiveSampler()).run(40, progress=False)
    expected = lowest_of_sector(h, config.symmetry)[0]
    assert result.estimate.energy - expected == pytest.approx(0, abs=1e-5 * abs(expected))
    assert result.estimate.energy >= expected - 1e-9
    if name.removesuffix(", on orbits") in ("bosons with momentum", "fermions around a ring"):
        assert expected > exact.ground_state(h).energy + 0.1  # an excited level of the whole space


@pytest.mark.parametrize("sampler", [ExhaustiveSampler(), TreeSampler(n_samples=200)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["bosons with momentum", "electrons", "electrons, on orbits", SUBGROUP])
@pytest.mark.usefixtures("unchecked")
def test_interrupted_runs_end_bit_for_bit_like_uninterrupted_ones(
    name: str, sampler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    evaluation = TreeSampler(n_samples=100)
    run(name, sampler=sampler, evaluation=evaluation).run(4, archive=first, progress=False)
    calls = iter(range(100))

    def interrupted(*arguments: Any, **options: Any) -> Step:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return make_step(*arguments, **options)

    monkeypatch.setattr("nqs.vmc.loop.make_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(name, sampler=sampler, evaluation=evaluation).run(4, archive=second, progress=False)
    monkeypatch.undo()
    assert Archive.open(second).step == 2
    resume(second, progress=False)
    a, b = Archive.open(first), Archive.open(second)
    assert a.config == b.config
    assert a.result == b.result
    for found, expected in ((a.history, b.history), (a.samples(), b.samples()), (a.observables(), b.observables())):
        assert found.keys() == expected.keys()
        for key in found.keys() - {"seconds", "archive_seconds"}:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    for key, value in a.parameters().items():
        np.testing.assert_array_equal(value, b.parameters()[key])


def test_observables_are_those_of_the_whole_state(tmp_path: Path) -> None:
    """Not those of representatives, which are no typical configurations; the fidelity with the exact state, too."""
    h, _ = CASES["bosons"]
    vmc, path = run("bosons", sampler=ExhaustiveSampler()), tmp_path / "run.h5"
    vmc.run(3, archive=path, exact=exact.ground_state(h), progress=False)
    psi = amplitudes(vmc.wavefunction)
    p, n = psi.abs().square(), h.hilbert.configurations().double()
    found = Archive.open(path).observables()
    np.testing.assert_allclose(found["density_particles"], (p @ n).numpy(), atol=1e-12)
    correlations = torch.einsum("b,bi,bj->ij", p, n, n) - torch.outer(p @ n, p @ n)
    np.testing.assert_allclose(found["correlations_particles"], correlations.numpy(), atol=1e-12)
    overlap = np.vdot(exact.ground_state(h).state, psi.numpy())
    assert float(found["fidelity"]) == pytest.approx(abs(overlap) ** 2, abs=1e-10)
    stored = Archive.open(path).samples()["configurations"]
    assert len(stored) == len(vmc.wavefunction.symmetry.orbits(h.hilbert).sizes)


def test_a_symmetry_that_the_hamiltonian_has_not_is_refused() -> None:
    h = BoseHubbard(RING, 4, U=2.0, potential=staggered_potential(RING, 0.4))
    model = CASES["bosons"][1].build(h.hilbert)
    with pytest.raises(
        ValueError, match=r"wavefunction has 8 symmetries, the Hamiltonian only 4 .*permutation.*commuting"
    ):
        VMC(h, model)
    VMC(h, Symmetrised(base=BASE, symmetry=symmetries_of(h)).build(h.hilbert))


# ---- fewer images in optimisation steps ----------------------------------------------------------------------------


def by_two_sites() -> Symmetrised:
    """Bosons on a ring of four sites: translations by two sites in steps, all and reflections in the evaluation."""
    _, config = CASES["bosons"]
    moves = {tuple(p) for p in RING.translations(2).tolist()}
    return replace(config, trained=tuple(g for g, p in enumerate(config.symmetry.permutations) if p in moves))


def test_steps_average_over_a_subgroup_and_the_evaluation_over_all() -> None:
    h, config = CASES["bosons"]
    model = by_two_sites().build(h.hilbert)
    assert (model.n_images, model.for_steps().n_images) == (8, 2)
    n = h.hilbert.configurations()
    assert torch.equal(model.eval().log_psi(n).log_modulus, model.train().log_psi(n).log_modulus)  # the same state
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    H = dense(h)
    energies = []
    for symmetry, view in ((model.config.steps_over, model.for_steps()), (config.symmetry, model)):
        wanted = Symmetrised(base=BASE, symmetry=symmetry).build(h.hilbert)
        wanted.load_state_dict(model.state_dict())
        psi = amplitudes(view)
        torch.testing.assert_close(psi.abs(), amplitudes(wanted).abs())
        energies.append((psi.abs() @ torch.as_tensor(H).real @ psi.abs()).item())
    assert energies[1] < energies[0] - 1e-3  # it is convex in the probabilities of a positive state


def test_a_run_quotes_the_energy_of_the_whole_average(tmp_path: Path) -> None:
    h, _ = CASES["bosons"]
    config = replace(by_two_sites(), base=replace(BASE, phase="zero"))
    vmc = VMC(h, config.build(h.hilbert), TreeSampler(n_samples=200), evaluation=ExhaustiveSampler())
    result = vmc.run(steps=3, archive=tmp_path / "run.h5", progress=False)
    found = load(Archive.open(tmp_path / "run.h5"))
    assert isinstance(found, SymmetrisedWavefunction)
    assert found.n_images == 8
    psi = amplitudes(found)
    assert result.estimate.energy == pytest.approx((psi.conj() @ torch.as_tensor(dense(h)).to(psi) @ psi).real.item())
    resumed = resume(tmp_path / "run.h5", progress=False)
    assert resumed.estimate.energy == result.estimate.energy
    # Further steps of the same wavefunction average over the subgroup again.
    assert vmc.wavefunction.n_images == 8
    vmc.run(steps=1, progress=False)
    assert vmc.config(RunConfig(steps=1, annealing=0.5))["model"].trained == (0, 5)


@pytest.mark.parametrize(
    ("trained", "text"),
    [
        ((0, 9), r"numbers of elements, 0 .. 7"),
        ((), r"numbers of elements"),
        ((1, 2), r"identity"),
        ((0, 3), r"form no group"),
    ],
)
def test_steps_average_over_groups_alone(trained: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(CASES["bosons"][1], trained=trained)


def test_errors_say_what_to_do() -> None:
    symmetry = space_group(RING, BOSONS.hilbert)
    twice = Symmetrised(base=Symmetrised(base=BASE, symmetry=symmetry), symmetry=symmetry)
    with pytest.raises(TypeError, match="a symmetry needs an autoregressive model; SymmetrisedWavefunction is none"):
        twice.build(BOSONS.hilbert)
    with pytest.raises(ValueError, match="acts on 4 sites with 5 local states; the Hilbert space has 3 sites x 4"):
        Symmetrised(base=BASE, symmetry=symmetry).build(bosons(3, 3))


def test_one_step_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    h, config = CASES["electrons"]
    for budget in (2**25, 1):
        monkeypatch.setattr("nqs.runtime.memory.CPU_BYTES", budget)
        model = config.build(h.hilbert)
        samples: Samples = ExhaustiveSampler().build(model).sample(seeded())
        local = local_energies(h, model, samples)
        optimiser = natural_gradient(diagonal_shift=1e-2).build(model)
        optimiser.step(samples, local, 0.0)
        ends.append(parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)
    assert math.isfinite(ends[0].norm())
