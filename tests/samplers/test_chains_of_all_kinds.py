"""Every kind of move leaves |psi|^2 unchanged; trained proposals, importance weights, resumed draws, runs."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from chains import importance, independence, metropolis, norm_constrained, quest, sequential, trained_alongside
from networks import small_transformer
from torch import Tensor

from nqs import VMC
from nqs.error_bars import error_bar
from nqs.exact import ground_state
from nqs.hamiltonians import FermiHubbard, Heisenberg
from nqs.hilbert import Exclusion, HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import OnOrbits, Transformer
from nqs.protocols import Conditionals, LogPsi, SamplerConfig, Wavefunction
from nqs.samplers import (
    ImportanceSampler,
    IndependenceSampler,
    LocalMoves,
    Proposal,
    Redraw,
)
from nqs.samplers.markov_chains import Walkers
from nqs.samplers.norm_constrained import Groups
from nqs.symmetry import translations

P_VALUE = 1e-4
ROWS = 5_000
NETWORK = small_transformer()
OWN = trained_alongside(model=NETWORK, n_first=0)
SPACES: dict[str, HilbertSpace] = {
    "bosons": bosons(4, 4),
    "electrons": spinful_fermions(3, 2, 1),
    "spins 1/2": spins(6, 0),
    "free spins": spins(5),
    "spins 1": spins(5, 1, spin=1),
    "grand-canonical bosons": bosons(3, None, n_max=3),
    "blockade": HilbertSpace(6, ("0", "1"), (), (), (Exclusion([[i, i + 1] for i in range(5)]),)),
    "one site": bosons(1, None, n_max=4),
}
many = {"n_samples": ROWS, "n_chains": ROWS}
KINDS: dict[str, SamplerConfig] = {
    "Metropolis": metropolis(**many),
    "Metropolis, redrawn ends": metropolis(**many, moves=(Redraw(),)),
    "NCG, p = 2": norm_constrained(**many),
    "NCG, p = 1": norm_constrained(**many, p=1, step_size=2.0),
    "NCG, large steps": norm_constrained(**many, step_size=100.0),
    **{
        f"NCG, 3 tries, {weighting}": norm_constrained(**many, n_tries=3, weighting=weighting)
        for weighting in ("constant", "importance", "target", "balanced")
    },
    "independence": independence(**many, proposal=OWN),
    "independence, tempered": independence(**many, proposal=trained_alongside(model=NETWORK, n_first=0, power=0.5)),
    "QUEST": quest(**many, proposal=OWN),
    "QUEST, tempered": quest(**many, proposal=trained_alongside(model=NETWORK, n_first=0, power=0.5)),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(Wavefunction):
    """Given numbers as log psi; with a smooth function of one-hot occupations if they are sums over sites."""

    has_phase = True
    normalised = False

    def __init__(self, hilbert: HilbertSpace, scale: float = 0.8, *, gradient: bool = False) -> None:
        super().__init__()
        self.hilbert = hilbert
        L, d = hilbert.n_sites, hilbert.local_dim
        self.field = scale * torch.randn((L, d), dtype=torch.float64, generator=seeded(1))
        self.pairs = scale / L * torch.randn((L, d, L, d), dtype=torch.float64, generator=seeded(2))
        if gradient:
            self.relaxed_log_modulus = self._smooth

    def _smooth(self, x: Tensor) -> Tensor:
        return torch.einsum("bsn,sn->b", x, self.field) + torch.einsum("bsn,sntm,btm->b", x, self.pairs, x)

    def log_psi(self, n: Tensor) -> LogPsi:
        x = (n[..., None] == torch.arange(self.hilbert.local_dim)).double()
        return LogPsi(self._smooth(x) + 3, n.double().sum(1))

    @property
    def bytes_per_configuration(self) -> int:
        return 1024


def enumerated(psi: Wavefunction) -> np.ndarray:
    p = (2 * psi.log_psi(psi.hilbert.configurations()).log_modulus).exp()
    return (p / p.sum()).numpy()


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    order, expected = np.argsort(p), p * counts.sum()
    merged = int(np.searchsorted(np.cumsum(expected[order]), 5)) + 1
    observed, expected = (np.append(x[order][merged:], x[order][:merged].sum()) for x in (counts, expected))
    return scipy.stats.chisquare(observed, expected).pvalue


def moved_from_equilibrium(sampler: SamplerConfig, psi: Wavefunction, steps: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Counts of independent walkers that were drawn from |psi|^2 and moved, and |psi|^2."""
    p = enumerated(psi)
    n = psi.hilbert.configurations()[
        torch.multinomial(torch.from_numpy(p), ROWS, replacement=True, generator=seeded(0))
    ]
    chains, generator = sampler.build(psi), seeded(1)
    with torch.no_grad():
        chains.begin(torch.device("cpu"))
        walkers = Walkers(n, psi.log_psi(n))
        moves = 0
        for number in range(steps):
            before = walkers.n
            chains.step(walkers, number, generator)
            moves += int((walkers.n != before).any(1).sum())
    assert moves > 0.02 * ROWS
    expected = psi.log_psi(walkers.n)
    torch.testing.assert_close(walkers.log_modulus, expected.log_modulus)
    torch.testing.assert_close(walkers.phase, expected.phase)
    return np.bincount(psi.hilbert.rank(walkers.n).numpy(), minlength=len(p)), p


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("sampler", KINDS.values(), ids=KINDS)
def test_moves_leave_psi_squared_unchanged(sampler: SamplerConfig, space: HilbertSpace) -> None:
    assert chi_square(*moved_from_equilibrium(sampler, Table(space))) > P_VALUE


@pytest.mark.parametrize("name", ["electrons", "free spins", "spins 1", "grand-canonical bosons"])
@pytest.mark.parametrize("tries", [1, 4])
def test_gradients_leave_psi_squared_unchanged(name: str, tries: int) -> None:
    sampler = norm_constrained(**many, n_tries=tries)
    assert chi_square(*moved_from_equilibrium(sampler, Table(SPACES[name], gradient=True))) > P_VALUE


def test_gradients_of_sums_over_sites_are_exact_differences() -> None:
    """Without pair terms both give the same proposals, and every one of large steps is accepted."""
    space, generator = spins(5), seeded(0)
    found = []
    for gradient in (False, True):
        psi = Table(space, gradient=gradient)
        psi.pairs.zero_()
        chains = norm_constrained(**many).build(psi)
        chains.begin(torch.device("cpu"))
        n = space.random(50, generator.manual_seed(0))
        with torch.no_grad():
            found.append(chains._proposal(n, psi.log_psi(n).log_modulus, chains._groups.random(generator)))
    torch.testing.assert_close(*found)


def test_norms_of_changes_count_charges() -> None:
    groups = Groups(bosons(2, None, n_max=3), 2, torch.device("cpu"))
    sites = groups.random(seeded(0))
    n = torch.tensor([[0, 2]], dtype=torch.uint8)
    codes = groups.codes(n, sites)
    assert groups.norm(codes, sites)[0].tolist() == [[0, 1, 4, 9], [4, 1, 0, 1]]
    of_p_1 = Groups(bosons(2, None, n_max=3), 1, torch.device("cpu"))
    assert of_p_1.norm(codes, sites)[0].tolist() == [[0, 1, 2, 3], [2, 1, 0, 1]]
    for p, flip in ((1, 2.0), (2, 4.0)):  # of 2 Sz
        assert Groups(spins(2), p, torch.device("cpu")).distance[0].tolist() == [[0, flip], [flip, 0]]
    electrons = Groups(spinful_fermions(2, 1, 1), 2, torch.device("cpu"))
    pair = torch.tensor([[0, 1]])
    codes = electrons.codes(torch.tensor([[1, 2]], dtype=torch.uint8), pair)
    allowed = electrons.allowed(codes, pair)[0, 0]
    assert electrons.states[allowed].tolist() == [[0, 3], [1, 2], [2, 1], [3, 0]]
    assert electrons.norm(codes, pair)[0, 0][allowed].tolist() == [2, 0, 4, 2]


# ---------------------------------------------------------------------------------------------- tempering


class TwoPeaks(Table):
    """Two peaks far from each other, which local moves hardly ever connect."""

    def log_psi(self, n: Tensor) -> LogPsi:
        ups = n.double().sum(1)
        return LogPsi(1.1 * (ups - n.shape[1] / 2).abs(), ups)


def test_tempering_crosses_between_peaks() -> None:
    """After as many steps from one of two equal peaks, half of the tempered walkers are at the other one."""
    fractions = {}
    for powers in ((1.0,), (1.0, 0.7, 0.4, 0.1)):
        psi = TwoPeaks(spins(10))
        chains = metropolis(n_samples=200, n_chains=200, powers=powers).build(psi)
        chains.begin(torch.device("cpu"))
        n = torch.ones((200 * len(powers), 10), dtype=torch.uint8)
        walkers, generator = Walkers(n, psi.log_psi(n)), seeded(0)
        for number in range(300):
            chains.step(walkers, number, generator)
        fractions[len(powers)] = (walkers.n[:200].double().mean(1) < 0.5).double().mean().item()
    assert fractions[1] < 0.2
    assert fractions[4] == pytest.approx(0.5, abs=0.15)


def test_tempered_walkers_have_their_own_distributions() -> None:
    psi, powers = Table(spins(5)), (1.0, 0.6, 0.2)
    chains = metropolis(n_samples=2_000, n_chains=2_000, powers=powers).build(psi)
    chains.sample(seeded(0))
    p = enumerated(psi)
    for power, n in zip(powers, chains.walkers.split(2_000), strict=True):
        q = p**power / (p**power).sum()
        assert chi_square(np.bincount(psi.hilbert.rank(n).numpy(), minlength=32), q) > P_VALUE


@pytest.mark.parametrize("powers", [(0.5,), (0.6, 0.2), (0.0,)])
def test_samples_of_a_smaller_power_are_weighted(powers: tuple[float, ...]) -> None:
    """They are drawn with |psi|^(2 a), and their weights are estimates of |psi|^2."""
    psi = Table(spins(5))
    p = enumerated(psi)
    samples = metropolis(n_samples=4_000, n_chains=4_000, powers=powers).build(psi).sample(seeded(0))
    rank = psi.hilbert.rank(samples.configurations).numpy()
    drawn = np.zeros(32)
    drawn[rank] = samples.weighted_counts.numpy()
    q = p ** powers[0] / (p ** powers[0]).sum()
    assert chi_square(drawn, q) > P_VALUE
    assert samples.counts is None
    assert samples.n_samples == 4_000
    assert samples.n_effective < 4_000
    n_up = samples.configurations.double().sum(1)
    of_all = psi.hilbert.configurations().double().sum(1).numpy()
    exact = (p * of_all).sum()
    error = samples.standard_error(n_up).item()
    assert samples.mean(n_up).item() == pytest.approx(exact, abs=4 * error)
    independent = math.sqrt((p**2 / q * (of_all - exact) ** 2).sum() / 4_000)
    assert error == pytest.approx(independent, rel=0.2)


def test_walkers_of_another_power_forget_their_distribution() -> None:
    """An evaluation begins with the walkers of the steps, which may have been drawn with a smaller power."""
    psi = Table(spins(5))
    steps = metropolis(n_samples=4_000, n_chains=4_000, powers=(0.1,)).build(psi)
    steps.sample(seeded(0))
    evaluation = metropolis(n_samples=4_000, n_chains=4_000, n_steps=1).build(psi)
    evaluation.warm_start(steps.state_dict(), seeded(1))
    counts = np.bincount(psi.hilbert.rank(evaluation.walkers).numpy(), minlength=32)
    assert chi_square(counts, enumerated(psi)) > P_VALUE
    same = metropolis(n_samples=4_000, n_chains=4_000, powers=(0.1,)).build(psi)
    same.load_state_dict(steps.state_dict())
    assert same.walkers.equal(steps.walkers)


# ----------------------------------------------------------------------------------------------- proposals


@pytest.mark.parametrize("build", [independence, quest])
def test_an_autoregressive_state_proposes_for_itself_without_rejection(build: Callable) -> None:
    psi = small_transformer(seed=1).build(bosons(4, 4))
    samples = build(n_samples=400, n_chains=100).build(psi).sample(seeded(0))
    assert samples.acceptance == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_training_alongside_raises_the_acceptance_and_the_effective_number() -> None:
    psi = Table(spins(8, 0), scale=1.5)
    acceptance, effective = [], []
    for n_first in (0, 40):
        proposal = Proposal(model=NETWORK, n_first=n_first, n_updates=0, learning_rate=0.02)
        samples = (
            IndependenceSampler(n_samples=800, n_chains=100, n_discarded=2, proposal=proposal)
            .build(psi)
            .sample(seeded(0))
        )
        acceptance.append(samples.acceptance)
        weighted = ImportanceSampler(n_samples=500, n_batches=1, proposal=proposal).build(psi).sample(seeded(0))
        effective.append(weighted.n_effective)
    assert acceptance[1] > acceptance[0] + 0.2
    assert effective[1] > 2 * effective[0]


def test_importance_weights_are_unbiased_and_their_errors_honest() -> None:
    psi = Table(bosons(4, 4))
    p, f = torch.from_numpy(enumerated(psi)), torch.linspace(0, 1, 35).double()
    sampling = importance(n_samples=1_000, proposal=OWN).build(psi)
    hits, generator = [], seeded(0)
    for _ in range(150):
        samples = sampling._weighted([sampling.draw(generator)], 1)
        mean, error = error_bar(samples, f[psi.hilbert.rank(samples.configurations)])
        hits.append(abs((mean - p @ f).item()) < 1.96 * error.item())
    assert np.mean(hits) > 0.9


def test_the_effective_number_of_importance_weights_is_bounded() -> None:
    """Batches are drawn until it is reached; if it is not, the error is not determinable."""
    psi = Table(spins(8), scale=1.0)
    drawn = ImportanceSampler(n_samples=100, n_effective=60, n_batches=50, proposal=OWN).build(psi).sample(seeded(0))
    assert drawn.n_samples > 100
    assert drawn.n_effective >= 60
    assert drawn.autocorrelation_time is None
    few = ImportanceSampler(n_samples=100, n_effective=100, n_batches=1, proposal=OWN).build(psi).sample(seeded(0))
    assert few.n_effective < 100
    assert math.isnan(error_bar(few, few.log_modulus).error.item())


def test_symmetric_states_are_weighted_by_orbit() -> None:
    hamiltonian = Heisenberg(chain(6), total_sz=0)
    symmetry = translations(hamiltonian.lattice, hamiltonian.hilbert)
    psi = OnOrbits(base=NETWORK, symmetry=symmetry).build(hamiltonian.hilbert)
    n, members = psi.representatives("cpu")
    with torch.no_grad():
        p = members * (2 * psi.log_psi(n).log_modulus).exp()
    samples = importance(n_samples=5_000, proposal=OWN).build(psi).sample(seeded(0))
    found = dict(zip(map(tuple, samples.configurations.tolist()), samples.weights.tolist(), strict=True))
    for row, probability in zip(map(tuple, n.tolist()), p.tolist(), strict=True):
        assert found[row] == pytest.approx(probability, abs=5 * math.sqrt(probability / samples.n_effective))
    assert psi.to_sector_samples(samples, seeded(0)).n_effective == pytest.approx(samples.n_effective)


# ------------------------------------------------------------------------------------------------- resumed


@pytest.mark.parametrize(
    "sampler",
    [
        metropolis(n_samples=40, n_chains=10, powers=(1, 0.5)),
        metropolis(n_samples=40, n_chains=10, powers=(0.5,)),
        norm_constrained(n_samples=40, n_chains=10, n_tries=2),
        independence(n_samples=40, n_chains=10, proposal=trained_alongside(model=NETWORK, n_first=2)),
        quest(n_samples=40, n_chains=10, proposal=trained_alongside(model=NETWORK, n_first=2)),
        importance(n_samples=40, proposal=trained_alongside(model=NETWORK, n_first=2)),
        sequential(n_samples=40, n_islands=8, proposal=trained_alongside(model=NETWORK, n_first=2, power=0.5)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_draws_go_on_bit_for_bit(sampler: SamplerConfig) -> None:
    psi = Table(spinful_fermions(3, 2, 1))
    sampling, generator = sampler.build(psi), seeded(0)
    sampling.sample(generator)
    state, before = {k: v.clone() for k, v in sampling.state_dict().items()}, generator.get_state()
    expected = sampling.sample(generator)
    again = sampler.build(psi)
    again.load_state_dict(state)
    generator.set_state(before)
    found = again.sample(generator)
    for name in ("configurations", "weights", "log_modulus", "phase"):
        assert getattr(found, name).equal(getattr(expected, name))
    for name, value in sampling.state_dict().items():
        assert value.equal(again.state_dict()[name]), name


@pytest.mark.parametrize(
    "sampler",
    [
        independence(n_samples=400, n_chains=200, proposal=trained_alongside(model=NETWORK)),
        importance(n_samples=400, proposal=trained_alongside(model=NETWORK)),
        sequential(n_samples=400, proposal=Proposal(power=0.7)),
        norm_constrained(n_samples=400, n_chains=200),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_runs_with_every_kind_of_samples(sampler: SamplerConfig) -> None:
    hamiltonian = FermiHubbard(chain(3), n_up=1, n_down=1, U=2.0)
    model = small_transformer(phase="learned", seed=1).build(hamiltonian.hilbert)
    result = VMC(hamiltonian, model, sampler, evaluation=sampler).run(steps=15, progress=False)
    exact = ground_state(hamiltonian).energy
    assert exact - 5 * result.estimate.error < result.estimate.energy < exact + 1.0
    assert result.history["energy"][-1] < result.history["energy"][0]
    assert (result.history["effective"] > 1).all()


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: metropolis(n_samples=300, powers=()), ValueError, "falling numbers between 1 and 0"),
        (lambda: metropolis(n_samples=300, powers=(1, 1)), ValueError, "falling numbers between 1 and 0"),
        (lambda: metropolis(n_samples=300, powers=(1.5, 1)), ValueError, "falling numbers between 1 and 0"),
        (lambda: norm_constrained(n_samples=300, step_size=0), ValueError, "step_size=0: it must be a positive"),
        (lambda: norm_constrained(n_samples=300, p=3), ValueError, "p=3: choose 1 or 2"),
        (lambda: norm_constrained(n_samples=300, n_tries=0), ValueError, "n_tries=0: it must be at least 1"),
        (lambda: norm_constrained(n_samples=300, weighting="w"), ValueError, "weighting='w': choose 'constant'"),
        (
            lambda: norm_constrained(n_samples=300, n_steps=1).build(Table(SPACES["blockade"])),
            ValueError,
            "n_steps=1: give at least 2 in this sector",
        ),
        (lambda: Proposal(power=0), ValueError, "power=0: it must be above 0 and at most 1"),
        (lambda: Proposal(learning_rate=0), ValueError, "learning_rate=0: it must be positive"),
        (lambda: Proposal(n_updates=-1), ValueError, "give 0 or more"),
        (lambda: importance(n_samples=0), ValueError, "n_samples=0: it must be at least 1"),
        (lambda: importance(n_samples=5, n_effective=100), ValueError, "n_effective=100: choose 1 to 40"),
        (
            lambda: independence(n_samples=300).build(Table(SPACES["bosons"])),
            TypeError,
            "a proposal must be autoregressive, and Table is not: give the proposal a `model`",
        ),
    ],
)
def test_errors_say_what_to_do(build: Callable, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


class Blind(Transformer):
    """Never gives the last local state to the first site."""

    def conditionals(self, n: Tensor) -> Conditionals:
        found = super().conditionals(n)
        log_p = found.log_p.clone()
        log_p[:, 0, -1] = -torch.inf
        return found._replace(log_p=log_p)


def test_a_proposal_without_support_is_refused() -> None:
    psi = Table(spins(4, 0))
    sampling = independence(n_samples=100, n_chains=50, proposal=OWN).build(psi)
    sampling.proposal.model = Blind(psi.hilbert, small_transformer())
    with pytest.raises(ValueError, match=r"the proposal Blind has probability 0 at n = .* must reach the whole sector"):
        sampling.sample(seeded(0))


def test_local_moves_of_one_site_are_refused_nowhere() -> None:
    """Kinds of moves are used in turn: here flips and exchanges of free spins."""
    psi = Table(spins(5))
    sampler = metropolis(n_samples=ROWS, n_chains=ROWS, moves=(LocalMoves(sites=1), LocalMoves(sites=2)))
    assert chi_square(*moved_from_equilibrium(sampler, psi)) > P_VALUE
