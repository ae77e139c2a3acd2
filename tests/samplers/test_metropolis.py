"""Markov chains: moves in detailed balance, distributions against enumeration, error bars, resumed runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.csgraph
import scipy.stats
import torch
from chains import metropolis
from networks import small_transformer
from torch import Tensor, nn

from nqs import VMC
from nqs.chains import autocorrelation_time, drifts, r_hat
from nqs.error_bars import error_bar
from nqs.exact import ground_state
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.hilbert import Charge, Exclusion, HilbertSpace, bosons, fermions, product_space, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import OnOrbits, Symmetrised
from nqs.protocols import Hamiltonian, LogPsi, Wavefunction
from nqs.samplers import ConnectedMoves, LocalMoves, MetropolisSampler, Redraw
from nqs.samplers.moves import Moves, default_moves, near_moves
from nqs.samples import Samples
from nqs.symmetry import translations

P_VALUE = 1e-4
SPACES: dict[str, HilbertSpace] = {
    "bosons": bosons(4, 4),
    "bosons with a cutoff": bosons(4, 5, n_max=2),
    "grand-canonical bosons": bosons(3, None, n_max=3),
    "fermions": fermions(6, 3),
    "electrons": spinful_fermions(4, 2, 1),
    "electrons of one species": spinful_fermions(3, 2, None),
    "spins 1/2": spins(6, 0),
    "free spins": spins(5),
    "spins 1": spins(4, 1, spin=1),
    "mixed spins": spins(4, 0, spin=(0.5, 1, 0.5, 1)),
    "fermions of odd parity": HilbertSpace(5, ("empty", "occupied"), (Charge("parity", (0, 1), 1, 2),)),
    "blockade": HilbertSpace(6, ("0", "1"), (), (), (Exclusion([[i, i + 1] for i in range(5)]),)),
    "full blockade": HilbertSpace(
        7, ("0", "1"), (Charge("particles", (0, 1), 3),), (), (Exclusion([[i, i + 1] for i in range(6)]),)
    ),
    "sublattice numbers": HilbertSpace(
        6,
        ("0", "1"),
        (Charge("even", ((0, 1), (0, 0)) * 3, 2), Charge("odd", ((0, 0), (0, 1)) * 3, 1)),
    ),
    "momentum": HilbertSpace(
        6, ("0", "1"), (Charge("n", (0, 1), 3), Charge("k", tuple((0, k) for k in range(6)), 1, 6))
    ),
    "spins beside bosons": product_space(spins(2), bosons(2, 3)),
    "one site": bosons(1, None, n_max=4),
    "one configuration": bosons(3, 0),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
HAMILTONIANS: dict[str, Hamiltonian] = {
    "Bose-Hubbard": BoseHubbard(chain(4), n_particles=4, U=2.0),
    "Hubbard": FermiHubbard(chain(4), n_up=2, n_down=1, U=4.0),
    "Heisenberg": Heisenberg(chain(6), total_sz=0),
    "Ising": Ising(chain(5), h=1.0),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Network(Wavefunction):
    """A small multilayer perceptron of the local states, neither normalised nor autoregressive."""

    has_phase = True
    normalised = False

    def __init__(self, config: "NetworkConfig", hilbert: HilbertSpace) -> None:
        super().__init__()
        self.config, self.hilbert = config, hilbert
        generator = seeded(1)
        self.first = nn.Parameter(
            torch.randn((hilbert.n_sites * hilbert.local_dim, 8), dtype=torch.float64, generator=generator)
        )
        self.last = nn.Parameter(config.scale * torch.randn((8, 2), dtype=torch.float64, generator=generator))

    def log_psi(self, n: Tensor) -> LogPsi:
        x = (n[..., None] == torch.arange(self.hilbert.local_dim)).flatten(1).double()
        log_modulus, phase = ((x @ self.first).tanh() @ self.last).T
        return LogPsi(log_modulus + 5, phase)

    @property
    def bytes_per_configuration(self) -> int:
        return 1024


@dataclass(frozen=True)
class NetworkConfig:
    scale: float = 0.7

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> Network:
        return Network(self, hilbert).to(device)


def enumerated(psi: Wavefunction) -> np.ndarray:
    """|psi|^2 of the sector, normalised."""
    with torch.no_grad():
        p = (2 * psi.log_psi(psi.hilbert.configurations()).log_modulus).exp()
    return (p / p.sum()).numpy()


def chi_square(samples: Samples, hilbert: HilbertSpace, p: np.ndarray) -> float:
    """p-value of the sampled weights, for their effective number of samples."""
    number = samples.n_effective
    weights = np.zeros_like(p)
    weights[hilbert.rank(samples.configurations).numpy()] = samples.weights.numpy()
    order = np.argsort(p)
    merged = int(np.searchsorted(np.cumsum(number * p[order]), 5)) + 1
    observed, expected = (number * np.append(x[order][merged:], x[order][:merged].sum()) for x in (weights, p))
    return scipy.stats.chisquare(observed, expected).pvalue


# -------------------------------------------------------------------------------------------------- moves


def check_balance(moves: Moves, space: HilbertSpace, *, connected: bool) -> None:
    """With a flat target as many moves lead from n to n' as back; all of the sector is reached."""
    proposer, generator, D = moves.build(space, torch.device("cpu")), seeded(0), space.dimension
    flows = np.zeros((D, D))
    for _ in range(max(1, 60_000 // (100 * D))):
        n = space.configurations().repeat(100, 1)
        moved, log_ratio = proposer(n, generator)
        assert space.contains(moved).all()
        assert moved.dtype == torch.uint8
        assert log_ratio.isfinite().all()
        probability = log_ratio.exp().clamp(max=1).numpy()
        np.add.at(flows, (space.rank(n).numpy(), space.rank(moved).numpy()), probability)
    off = np.triu_indices(D, 1)
    there, back = flows[off], flows.T[off]
    seen = there + back >= 30
    if seen.any():
        z2 = (there - back)[seen] ** 2 / (there + back)[seen]
        assert scipy.stats.chi2.sf(z2.sum(), seen.sum()) > P_VALUE
    if connected:
        assert scipy.sparse.csgraph.connected_components(flows > 0)[0] == 1


@every_space
def test_default_moves_are_balanced_and_reach_the_sector(space: HilbertSpace) -> None:
    moves, D = default_moves(space), space.dimension
    reached = np.eye(D, dtype=bool)
    for one in moves:
        check_balance(one, space, connected=False)
        n, proposer, generator = space.configurations().repeat(30, 1), one.build(space, torch.device("cpu")), seeded(1)
        for _ in range(20):
            reached[space.rank(n), space.rank(proposer(n, generator).configurations)] = True
    assert scipy.sparse.csgraph.connected_components(reached)[0] == 1


@every_space
def test_redrawn_ends_are_balanced_and_reach_the_sector(space: HilbertSpace) -> None:
    check_balance(Redraw(), space, connected=True)


@pytest.mark.parametrize("hamiltonian", HAMILTONIANS.values(), ids=HAMILTONIANS)
def test_connected_moves_are_balanced_and_reach_the_sector(hamiltonian: Hamiltonian) -> None:
    check_balance(ConnectedMoves(hamiltonian), hamiltonian.hilbert, connected=True)


@every_space
def test_moves_of_neighbours_and_others_reach_the_whole_sector(space: HilbertSpace) -> None:
    L, D = space.n_sites, space.dimension
    reached = np.zeros((D, D), dtype=bool)
    for moves in near_moves(space, [[i, i + 1] for i in range(L - 1)]):
        proposer, generator = moves.build(space, torch.device("cpu")), seeded(0)
        n = space.configurations().repeat(max(1, 20_000 // D), 1)
        moved, log_ratio = proposer(n, generator)
        assert space.contains(moved).all()
        assert log_ratio.isfinite().all()
        reached[space.rank(n).numpy(), space.rank(moved).numpy()] = True
    assert scipy.sparse.csgraph.connected_components(reached, directed=True, connection="strong")[0] == 1


def test_bosons_move_to_neighbours_first() -> None:
    bonds = chain(4).bonds().tolist()
    assert near_moves(bosons(4, 6), bonds) == (LocalMoves(sites=bonds), LocalMoves(sites=2))
    assert near_moves(spins(4), bonds) == default_moves(spins(4))


@pytest.mark.parametrize("sites", [1, 2, 3, chain(6).bonds().tolist()], ids=str)
def test_moves_of_chosen_sites_are_balanced(sites: object) -> None:
    check_balance(LocalMoves(sites=sites), spins(6, 0), connected=sites != 1)
    check_balance(
        LocalMoves(sites=sites), SPACES["spins 1"] if sites in (1, 2, 3) else bosons(6, 2), connected=sites != 1
    )


def test_moves_of_electrons_are_hops_and_exchanges() -> None:
    """One electron hops, up and down change places, a pair hops; nothing else happens on two sites."""
    proposer = LocalMoves(sites=2).build(spinful_fermions(2, 1, 1), torch.device("cpu"))
    for n, expected in (([1, 2], {(2, 1), (3, 0), (0, 3)}), ([3, 0], {(0, 3), (1, 2), (2, 1)})):
        moved = proposer(torch.tensor([n], dtype=torch.uint8).repeat(200, 1), seeded(0)).configurations
        assert set(map(tuple, moved.tolist())) == expected


def test_bosons_hop_one_by_one() -> None:
    proposer = LocalMoves(sites=2).build(bosons(2, 6), torch.device("cpu"))
    moved = proposer(torch.tensor([[4, 2]], dtype=torch.uint8).repeat(100, 1), seeded(0)).configurations
    assert set(map(tuple, moved.tolist())) == {(3, 3), (5, 1)}


def test_many_pairs_of_sites_are_chosen_among_a_part_of_them_each_time() -> None:
    space = spins(40, 0)
    proposer = LocalMoves().build(space, torch.device("cpu"))
    n = space.random(50, seeded(0))
    for seed in range(5):
        moved = proposer(n, seeded(seed)).configurations
        assert space.contains(moved).all()
        assert ((moved != n).sum(1) == 2).all()


# ------------------------------------------------------------------------------------------ distributions


@every_space
def test_chains_have_the_distribution_of_psi_squared(space: HilbertSpace) -> None:
    psi = NetworkConfig(scale=0.35).build(space)
    samples = metropolis(n_samples=10_000, n_chains=400).build(psi).sample(seeded(0))
    assert samples.n_samples == samples.counts.sum() == 10_000
    assert space.contains(samples.configurations).all()
    assert samples.n_effective > 200
    if space.dimension > 1:
        assert chi_square(samples, space, enumerated(psi)) > P_VALUE


@pytest.mark.parametrize("hamiltonian", HAMILTONIANS.values(), ids=HAMILTONIANS)
def test_chains_of_hamiltonian_moves_have_the_distribution_of_psi_squared(hamiltonian: Hamiltonian) -> None:
    psi = NetworkConfig(scale=0.35).build(hamiltonian.hilbert)
    sampler = metropolis(n_samples=10_000, n_chains=400, moves=(ConnectedMoves(hamiltonian),))
    assert chi_square(sampler.build(psi).sample(seeded(0)), psi.hilbert, enumerated(psi)) > P_VALUE


@pytest.mark.parametrize("kind", [Symmetrised, OnOrbits])
def test_symmetric_states_are_sampled_as_representatives(kind: Callable) -> None:
    hamiltonian = Heisenberg(chain(6), total_sz=0)
    symmetry = translations(hamiltonian.lattice, hamiltonian.hilbert)
    psi = kind(base=small_transformer(phase="learned"), symmetry=symmetry).build(hamiltonian.hilbert)
    with torch.no_grad():
        psi.base.head.weight.mul_(10)
    n, members = psi.representatives("cpu")
    with torch.no_grad():
        p = members * (2 * psi.log_psi(n).log_modulus).exp()
    samples = metropolis(n_samples=10_000, n_chains=400).build(psi).sample(seeded(0))
    found = dict(zip(map(tuple, samples.configurations.tolist()), samples.weights.tolist(), strict=True))
    expected = dict(zip(map(tuple, n.tolist()), p.tolist(), strict=True))
    assert set(found) <= set(expected)
    for row, probability in expected.items():
        error = math.sqrt(probability * (1 - probability) / samples.n_effective)
        assert abs(found.get(row, 0.0) - probability) < 4 * error
    amplitudes = psi.log_psi(samples.configurations)
    torch.testing.assert_close(samples.log_modulus, amplitudes.log_modulus)
    difference = torch.polar(torch.ones_like(samples.phase), samples.phase - amplitudes.phase)
    torch.testing.assert_close(difference, torch.ones_like(difference))
    torch.testing.assert_close(samples.probability, torch.tensor([expected[row] for row in found]).double())


# ------------------------------------------------------------------------------------------- correlations


def series(rho: float, T: int, C: int, seed: int = 0) -> Tensor:
    """First-order autoregressive chains: tau = (1 + rho) / (1 - rho) / 2."""
    noise = torch.randn((T, C), dtype=torch.float64, generator=seeded(seed))
    x = [noise[0]]
    for t in range(1, T):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[t])
    return torch.stack(x)


@pytest.mark.parametrize(("T", "C"), [(5_000, 1), (2_000, 20), (100, 500), (10, 2_000)])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_known_chains(rho: float, T: int, C: int) -> None:
    tau = autocorrelation_time(series(rho, T, C)[..., None]).item()
    distance = torch.arange(T).double()
    exact = 0.5 + ((1 - distance / T) * rho**distance)[1:].sum().item()  # of a chain of T samples
    assert tau == pytest.approx(exact, rel=0.3 if C == 1 else 0.2 if T > 100 else 0.1)


def test_too_few_short_chains_have_no_autocorrelation_time() -> None:
    assert math.isnan(autocorrelation_time(series(0.9, 100, 2)[..., None]).item())
    assert math.isnan(autocorrelation_time(series(0.0, 4, 2)[..., None]).item())
    assert autocorrelation_time(torch.ones((100, 50, 1), dtype=torch.float64)).item() == 0.5


def test_r_hat_tells_chains_that_disagree() -> None:
    agreeing = series(0.5, 200, 8)
    assert r_hat(agreeing) == pytest.approx(1, abs=0.04)
    assert r_hat(agreeing + torch.arange(8).double()) > 2
    assert r_hat(torch.ones((10, 4), dtype=torch.float64)) == 1.0
    assert math.isnan(r_hat(agreeing[:3]))
    # The definition, written out for two chains in halves.
    x = agreeing[:100, :2].numpy()
    halves = np.concatenate([x[:50], x[50:]], axis=1)
    within, between = halves.var(0, ddof=1).mean(), 50 * halves.mean(0).var(ddof=1)
    assert r_hat(agreeing[:100, :2]) == pytest.approx(math.sqrt((49 / 50 * within + between / 50) / within))


def test_chains_that_drift_are_found() -> None:
    still = series(0.5, 100, 50)
    assert not drifts(still)
    assert drifts(still + torch.linspace(0, 2, 100).double()[:, None])


def test_error_bars_of_chains_are_honest() -> None:
    """100 repeated draws: the scatter of a mean is that of its error bar, for slow chains, too."""
    psi = NetworkConfig(scale=1.0).build(bosons(4, 4))
    p, f = torch.from_numpy(enumerated(psi)), torch.linspace(0, 1, 35).double().square()
    hits = []
    sampling = metropolis(n_samples=1_000, n_chains=100, n_steps=2).build(psi)
    generator = seeded(0)
    for _ in range(100):
        samples = sampling.sample(generator)
        mean, error = error_bar(samples, f[psi.hilbert.rank(samples.configurations)])
        hits.append(abs((mean - p @ f).item()) < 1.96 * error.item())
        assert samples.autocorrelation_time > 1
    assert np.mean(hits) > 0.9


# ------------------------------------------------------------------------------------------------ resumed


def test_walkers_go_on_where_they_were() -> None:
    psi = NetworkConfig().build(SPACES["electrons"])
    config = metropolis(n_samples=60, n_chains=20)
    sampling, generator = config.build(psi), seeded(0)
    assert sampling.state_dict() == {}
    sampling.sample(generator)
    state, before = {k: v.clone() for k, v in sampling.state_dict().items()}, generator.get_state()
    expected = sampling.sample(generator)
    again, generator = config.build(psi), seeded(1)
    generator.set_state(before)
    again.load_state_dict(state)
    found = again.sample(generator)
    for name in ("configurations", "weights", "log_modulus", "phase", "counts", "chains"):
        assert getattr(found, name).equal(getattr(expected, name))
    assert sampling.state_dict()["walkers"].equal(again.state_dict()["walkers"])


STATES = {
    "perceptron": lambda hilbert: NetworkConfig(scale=0.1).build(hilbert),
    "transformer": lambda hilbert: small_transformer(phase="learned").build(hilbert),
}


@pytest.mark.parametrize("build", STATES.values(), ids=STATES)
def test_a_run_with_chains_is_resumed_bit_for_bit(build: Callable, tmp_path: Path) -> None:
    hamiltonian = FermiHubbard(chain(3), n_up=1, n_down=1, U=2.0)
    sampler = metropolis(n_samples=60, n_chains=20)

    def vmc() -> VMC:
        return VMC(hamiltonian, build(hamiltonian.hilbert), sampler, evaluation=sampler)

    whole = vmc().run(steps=6, progress=False, archive=tmp_path / "whole.h5")
    stopped = vmc()
    stopped.run(steps=6, progress=False, archive=tmp_path / "parts.h5", minutes=1e-9)
    parts = vmc().run(steps=6, progress=False, archive=tmp_path / "parts.h5")
    assert parts.estimate == whole.estimate
    for name in ("energy", "acceptance", "autocorrelation_time", "r_hat"):
        np.testing.assert_array_equal(parts.history[name], whole.history[name])
    assert (whole.history["acceptance"] > 0).all()


def test_a_run_with_chains_finds_the_ground_state() -> None:
    hamiltonian = FermiHubbard(chain(4), n_up=2, n_down=2, U=4.0)
    psi = NetworkConfig(scale=0.1).build(hamiltonian.hilbert)
    exact = ground_state(hamiltonian).energy
    result = VMC(
        hamiltonian,
        psi,
        metropolis(n_samples=500, n_chains=250),
        evaluation=metropolis(n_samples=5_000, n_chains=250),
    ).run(steps=80, progress=False)
    assert result.estimate.energy == pytest.approx(exact, abs=0.05)
    assert result.estimate.energy > exact - 4 * result.estimate.error


def test_other_states_than_autoregressive_ones_get_chains_by_default() -> None:
    hamiltonian = Heisenberg(chain(24), total_sz=0)
    vmc = VMC(hamiltonian, NetworkConfig(scale=0.1).build(hamiltonian.hilbert))
    assert isinstance(vmc.sampler, MetropolisSampler)
    assert vmc.evaluation.sampler == vmc.sampler
    assert vmc.evaluation.batches > 1


# ------------------------------------------------------------------------------------------------- errors


class Nowhere(Network):
    def log_psi(self, n: Tensor) -> LogPsi:
        found = super().log_psi(n)
        return LogPsi(torch.full_like(found.log_modulus, -math.inf), found.phase)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: metropolis(n_samples=0), "n_samples=0: it must be at least 1"),
        (lambda: metropolis(n_samples=10, n_chains=0), "n_chains=0: it must be at least 1"),
        (lambda: metropolis(n_samples=10, n_chains=20), "n_samples=10 of n_chains=20"),
        (lambda: metropolis(n_samples=300, n_steps=0), "n_steps=0: it must be at least 1"),
        (lambda: LocalMoves(sites=0), "sites=0: at least 1"),
        (lambda: LocalMoves(sites=[[0, 1], [2]]), "equally many different sites"),
        (lambda: LocalMoves(sites=[[1, 1]]), "equally many different sites"),
        (lambda: LocalMoves(sites=[]), "equally many different sites"),
        (lambda: LocalMoves(sites=[[0, 6]]).build(spins(6, 0), torch.device("cpu")), "sites 0 to 5|sites are 0 to 5"),
        (lambda: LocalMoves(sites=3).build(bosons(4, 60), torch.device("cpu")), "combined states; at most 65,536"),
        (
            lambda: ConnectedMoves(HAMILTONIANS["Hubbard"]).build(spins(6, 0), torch.device("cpu")),
            "give the Hamiltonian of the same sector",
        ),
        (
            lambda: metropolis(n_samples=20, n_chains=10, n_steps=1, moves=(LocalMoves(), Redraw())).build(
                NetworkConfig().build(spins(6, 0))
            ),
            "n_steps=1 for 2 kinds of moves",
        ),
        (
            lambda: (
                metropolis(n_samples=20, n_chains=10).build(Nowhere(NetworkConfig(), spins(6, 0))).sample(seeded(0))
            ),
            "psi is zero, or not finite, on all 640 random configurations",
        ),
        (
            lambda: (
                metropolis(n_samples=20, n_chains=2)
                .build(NetworkConfig().build(spins(6, 0)))
                .load_state_dict({"walkers": torch.ones((2, 6), dtype=torch.uint8)})
            ),
            "2 of 2 configurations lie outside the sector",
        ),
        (
            lambda: (
                metropolis(n_samples=20, n_chains=3)
                .build(NetworkConfig().build(spins(6, 0)))
                .load_state_dict({"walkers": spins(6, 0).configurations(0, 2)})
            ),
            "2 walkers were stored for 3: n_chains=3",
        ),
    ],
)
def test_errors_say_what_to_do(build: Callable, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
