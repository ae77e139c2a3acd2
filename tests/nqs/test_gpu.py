"""The same physics on a GPU: run where there is one, `pytest -m gpu`."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from chains import importance, independence, metropolis, norm_constrained, quest, sequential, trained_alongside
from networks import small_transformer
from optimisers import natural_gradient
from scipy.stats import chisquare

from nqs import VMC, exact, resume
from nqs.estimators.diagnostics import diagnostics
from nqs.estimators.local_energy import LocalEnergies, local_energies
from nqs.exact import lowest_sector
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard
from nqs.lattice import chain, square
from nqs.models import ProjectedDeterminant, Symmetrised, hartree_fock
from nqs.protocols import SamplerConfig
from nqs.samplers import (
    CoverageSampler,
    ExhaustiveSampler,
    GumbelSampler,
    TreeSampler,
)
from nqs.symmetry import symmetries_of

pytestmark = pytest.mark.gpu

RING = chain(6)
HAMILTONIANS = {
    "ring": BoseHubbard(RING, 6, U=4.0, V=0.3, mu=0.2),
    "flux": BoseHubbard(RING, 4, U=2.0, phases=tuple(RING.twist_phases([0.7]).tolist())),
    "grand-canonical": BoseHubbard(square(2, 2, boundary="open"), U=3.0, mu=1.0, n_max=3),
}


@pytest.fixture(params=HAMILTONIANS)
def hamiltonian(request: pytest.FixtureRequest) -> BoseHubbard:
    return HAMILTONIANS[request.param]


def test_hamiltonian_and_hilbert_space_agree_with_the_cpu(hamiltonian: BoseHubbard) -> None:
    n = hamiltonian.hilbert.configurations()
    on_gpu = hamiltonian.hilbert.configurations(device="cuda")
    assert torch.equal(on_gpu.cpu(), n)
    assert torch.equal(hamiltonian.hilbert.rank(on_gpu).cpu(), torch.arange(len(n)))
    torch.testing.assert_close(hamiltonian.diagonal(on_gpu).cpu(), hamiltonian.diagonal(n))
    for found, expected in zip(hamiltonian.connected(on_gpu), hamiltonian.connected(n), strict=True):
        torch.testing.assert_close(found.cpu(), expected)


def test_wavefunction_agrees_with_the_cpu(hamiltonian: BoseHubbard) -> None:
    n = hamiltonian.hilbert.configurations()
    on_cpu = small_transformer(width=16, layers=2, heads=4).build(hamiltonian.hilbert).log_psi(n)
    on_gpu = small_transformer(width=16, layers=2, heads=4).build(hamiltonian.hilbert, "cuda").log_psi(n.cuda())
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-11, atol=1e-11)


NETWORK = trained_alongside(model=small_transformer(), n_first=50)
CHAINS = [
    metropolis(n_samples=40_000, n_chains=2_000),
    metropolis(n_samples=40_000, n_chains=2_000, powers=(1, 0.5)),
    norm_constrained(n_samples=40_000, n_chains=2_000, n_steps=4, n_tries=2),
    independence(n_samples=40_000, n_chains=2_000, proposal=NETWORK),
    quest(n_samples=40_000, n_chains=2_000, n_steps=4, proposal=NETWORK),
    importance(n_samples=40_000, proposal=NETWORK),
    sequential(n_samples=40_000, proposal=NETWORK),
    TreeSampler(n_samples=10**18),
]


@pytest.mark.parametrize("sampler", CHAINS, ids=lambda sampler: type(sampler).__name__)
def test_samplers_have_the_distribution_of_the_enumeration(sampler: SamplerConfig) -> None:
    """Total variation distance within twice that of as many independent samples; 1e18 samples to rounding."""
    hamiltonian = HAMILTONIANS["ring"]
    model = small_transformer(width=16, layers=2, heads=4).build(hamiltonian.hilbert, "cuda")
    samples = sampler.build(model).sample(torch.Generator("cuda").manual_seed(0))
    found = diagnostics(samples, model)
    assert samples.weights.is_cuda
    assert found["total_variation"] < 2 * found["expected_variation"] + 1e-9


def test_beam_search_agrees_with_the_cpu() -> None:
    hilbert, found = HAMILTONIANS["ring"].hilbert, []
    for device in ("cpu", "cuda"):
        model = small_transformer(width=16, layers=2, heads=4).build(hilbert, device)
        with torch.no_grad():
            model.head.weight.mul_(8)  # without ties
        samples = CoverageSampler(n_distinct=20).build(model).sample(torch.Generator(device))
        found.append(hilbert.rank(samples.configurations).sort().values.cpu())
    assert found[0].equal(found[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tree_sampling_is_exact(hamiltonian: BoseHubbard, dtype: str) -> None:
    model = small_transformer(width=16, layers=2, heads=4, dtype=dtype).build(hamiltonian.hilbert, "cuda")
    samples = TreeSampler(n_samples=10**6).build(model).sample(torch.Generator("cuda").manual_seed(3))
    assert samples.counts is not None
    assert int(samples.counts.sum()) == 10**6
    assert bool(hamiltonian.hilbert.contains(samples.configurations).all())
    psi = model.log_psi(samples.configurations)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    torch.testing.assert_close(psi.log_modulus, samples.log_modulus, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(psi.phase, samples.phase, rtol=tolerance, atol=tolerance)
    p = (2 * model.log_psi(hamiltonian.hilbert.configurations(device="cuda")).log_modulus).exp()
    counts = torch.zeros_like(p)
    counts[hamiltonian.hilbert.rank(samples.configurations)] = samples.counts.double()
    expected = (p / p.sum()).detach().cpu().numpy() * 10**6
    common = expected >= 5
    rest = [counts.cpu().numpy()[~common].sum()], [expected[~common].sum()]
    observed, expected = np.append(counts.cpu().numpy()[common], rest[0]), np.append(expected[common], rest[1])
    keep = expected > 0
    assert chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue > 1e-4


def test_a_trillion_samples_keep_their_number(hamiltonian: BoseHubbard) -> None:
    model = small_transformer(width=16, layers=2, heads=4).build(hamiltonian.hilbert, "cuda")
    samples = TreeSampler(n_samples=10**12).build(model).sample(torch.Generator("cuda").manual_seed(1))
    assert samples.n_samples == 10**12


def test_sampling_without_replacement_finds_the_whole_sector(hamiltonian: BoseHubbard) -> None:
    model = small_transformer(width=16, layers=2, heads=4).build(hamiltonian.hilbert, "cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    samples = GumbelSampler(n_distinct=hamiltonian.hilbert.dimension).build(model).sample(generator)
    assert samples.n_distinct == hamiltonian.hilbert.dimension
    torch.testing.assert_close(samples.weights, (2 * samples.log_modulus).exp())


SYMMETRIC = {
    "bosons": HAMILTONIANS["ring"],
    "electrons": FermiHubbard(square(2, 3), 2, 2, U=8.0),
    "fermions": TV(chain(8), 4, V=1.0),
}


@pytest.mark.parametrize("h", SYMMETRIC.values(), ids=SYMMETRIC)
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_symmetric_states_agree_with_the_cpu(h: BoseHubbard | FermiHubbard | TV, attention: str) -> None:
    """The same sector, amplitudes, sums, local energies and update; samples that pass chi-square."""
    base = small_transformer(attention=attention)
    symmetry = symmetries_of(h)
    if not isinstance(h, BoseHubbard):
        solutions, group = hartree_fock(h).solutions, symmetries_of(h, fermions=True)
        one, other = (lowest_sector(h, group, solutions, device=device) for device in ("cpu", "cuda"))
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], rel=1e-10)
        determinant, symmetry, _ = one
        projected = ProjectedDeterminant(determinant=determinant, symmetry=symmetry, hilbert=h.hilbert)
        base = replace(base, reference=projected)
    config = Symmetrised(base=base, symmetry=symmetry)
    found = []
    for device in ("cpu", "cuda"):
        model = config.build(h.hilbert, device)
        n = h.hilbert.configurations(device=device)
        samples = ExhaustiveSampler().build(model).sample(torch.Generator(device))
        local = local_energies(h, model, samples)
        log_modulus, phase = model.log_psi(n)
        psi = torch.polar(log_modulus.exp(), phase).detach()
        natural_gradient(diagonal_shift=1e-2).build(model).step(samples, local, 0.0)
        new = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        found.append([x.cpu() for x in (psi, samples.configurations, samples.weights, local.values, new)])
    for one_part, other_part in zip(*found, strict=True):
        torch.testing.assert_close(one_part, other_part, rtol=1e-6, atol=1e-8)

    model = config.build(h.hilbert, "cuda")
    folded = TreeSampler(n_samples=10**5).build(model).sample(torch.Generator("cuda").manual_seed(2))
    samples = model.to_sector_samples(folded, torch.Generator("cuda").manual_seed(3))
    p = (2 * model.log_psi(n).log_modulus).exp().detach().cpu().numpy()
    counts = np.zeros(len(p))
    assert samples.counts is not None
    counts[h.hilbert.rank(samples.configurations).cpu().numpy()] = samples.counts.cpu().numpy()
    common = p / p.sum() * counts.sum() >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum())
    keep = expected > 0
    expected = expected[keep] / expected[keep].sum() * observed[keep].sum()
    assert chisquare(observed[keep], expected).pvalue > 1e-4


def test_natural_gradient_agrees_with_the_cpu(hamiltonian: BoseHubbard) -> None:
    parameters = []
    for device in ("cpu", "cuda"):
        model = small_transformer().build(hamiltonian.hilbert, device)
        samples = ExhaustiveSampler().build(model).sample(torch.Generator(device))
        local = local_energies(hamiltonian, model, samples)
        natural_gradient(diagonal_shift=1e-2).build(model).step(samples, local, 0.0)
        parameters.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().cpu())
    torch.testing.assert_close(*parameters, rtol=1e-6, atol=1e-8)


def test_run_converges_and_resumes_on_the_cpu(tmp_path: object) -> None:
    hamiltonian = HAMILTONIANS["ring"]
    ground_state = exact.ground_state(hamiltonian)
    model = small_transformer(width=16, layers=2, heads=4, phase="zero").build(hamiltonian.hilbert, "cuda")
    archive = f"{tmp_path}/run.h5"
    result = VMC(hamiltonian, model).run(60, archive=archive, exact=ground_state, progress=False)
    above = result.estimate.energy - ground_state.energy
    assert -3 * result.estimate.error - 1e-12 < above < 1e-4 * abs(ground_state.energy)
    assert resume(archive, device="cpu", progress=False).estimate == result.estimate


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_interrupted_run_goes_on_on_another_device(
    first: str, second: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    hamiltonian, archive = HAMILTONIANS["ring"], f"{tmp_path}/run.h5"
    calls = itertools.count()

    def interrupted(*arguments: object, **options: bool) -> LocalEnergies:
        if next(calls) == 20:
            raise KeyboardInterrupt
        return local_energies(*arguments, **options)

    model = small_transformer(width=16, layers=2, heads=4, phase="zero").build(hamiltonian.hilbert, first)
    vmc = VMC(hamiltonian, model, TreeSampler(n_distinct=300))
    monkeypatch.setattr("nqs.estimators.local_energy.local_energies", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vmc.run(60, archive=archive, progress=False)
    monkeypatch.undo()
    result = resume(archive, device=second, progress=False)
    assert len(result.history["step"]) == 60
    ground_state = exact.ground_state(hamiltonian)
    assert -3 * result.estimate.error < result.estimate.energy - ground_state.energy < 1e-3 * abs(ground_state.energy)
