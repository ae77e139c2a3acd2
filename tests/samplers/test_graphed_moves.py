"""Moves as a CUDA graph equal those without it; on a CPU with a graph that calls what it captured again."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import metropolis
from networks import small_convolutional, small_determinant, small_group_convolutional, small_rbm, small_vision
from on_gpus import energies
from torch import Tensor
from waiting import Waiting

import nqs
from nqs.archive.serialise import from_plain, to_plain
from nqs.hamiltonians import FermiHubbard, Heisenberg
from nqs.hilbert import Exclusion, HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain, square
from nqs.models import (
    JastrowConfig,
    MarshallSign,
    ProductConfig,
    Projected,
)
from nqs.protocols import LogPsi, Wavefunction, WavefunctionConfig
from nqs.recipes import NetworkOptions
from nqs.runtime.distributed import ALONE, Communicator
from nqs.samplers import ConnectedMoves, LocalMoves, MetropolisSampler, Redraw, graphed_moves
from nqs.samplers.metropolis import MetropolisSampling
from nqs.samplers.moves import Moves, near_moves
from nqs.samples import Samples
from nqs.symmetry import symmetries_of, translations

PLACE = chain(6)
SPINS = spins(6, 0)
SIGN = MarshallSign(sublattice=tuple(PLACE.sublattices().tolist()))
CONVOLUTIONS = small_convolutional(reference=SIGN, displacements=None)
MODELS: dict[str, WavefunctionConfig] = {
    "convolutions": CONVOLUTIONS,
    "convolutions in float32": replace(CONVOLUTIONS, dtype="float32"),
    "Boltzmann machine": small_rbm(density=2),
    "positive Boltzmann machine": small_rbm(phase="zero"),
    "Jastrow factor": JastrowConfig(initial=0.3),
    "product": ProductConfig(factors=(CONVOLUTIONS, JastrowConfig(initial=0.3))),
    "vision transformer": small_vision(width=4),
    "projection": Projected(base=CONVOLUTIONS, symmetry=translations(PLACE, SPINS)),
    "group convolutions": small_group_convolutional(symmetry=translations(PLACE, SPINS), reference=SIGN),
}
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
# Steps between samples leave a remainder of a period; of three powers both parities exchange.
STEPS = {
    "one kind of moves": {"n_steps": 3},
    "two kinds": {"n_steps": 7, "moves": (LocalMoves(sites=PLACE.bonds().tolist()), LocalMoves())},
    "smaller power": {"n_steps": 4, "powers": (0.5,)},
    "tempering": {"n_steps": 5, "powers": (1, 0.7, 0.4)},
    "tempering of three kinds": {
        "n_steps": 15,
        "powers": (1, 0.5),
        "moves": (LocalMoves(sites=PLACE.bonds().tolist()), LocalMoves(), LocalMoves(sites=3)),
    },
}
every_step = pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)


def sampler(n_chains: int = 20, **options: Any) -> MetropolisSampler:
    return MetropolisSampler(n_samples=3 * n_chains, n_chains=n_chains, n_discarded=2, **options)


def equal(one: Samples, other: Samples) -> bool:
    names = ("configurations", "weights", "log_modulus", "phase")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def graphs_of(sampling: MetropolisSampling) -> dict[int, Any]:
    return sampling._graphs._graphs


def check_equal_to_moves_without(
    config: WavefunctionConfig, hilbert: HilbertSpace, device: str, **options: Any
) -> MetropolisSampling:
    """Three draws, between which the parameters change in place, and at other addresses."""
    model = config.build(hilbert, device)
    with_graph, without = (sampler(use_cuda_graph=use, **options).build(model) for use in (True, False))
    one, other = (torch.Generator(device).manual_seed(4) for _ in range(2))
    with torch.no_grad():
        for draw in range(3):
            assert equal(with_graph.sample(one), without.sample(other))
            assert with_graph.acceptance == without.acceptance
            assert with_graph.walkers is not None
            assert without.walkers is not None
            assert torch.equal(with_graph.walkers, without.walkers)
            assert torch.equal(one.get_state(), other.get_state())
            for parameter in model.parameters():
                if draw == 0:
                    parameter.mul_(1.2)
                else:
                    parameter.data = parameter * 0.9
    assert graphs_of(with_graph)
    assert not graphs_of(without)
    return with_graph


# ------------------------------------------------------------------------------------------------ without a GPU


class Played:
    """A graph that calls what it captured; like a capture, its construction computes nothing."""

    replays = 0
    made = 0

    def __init__(self, function: Callable[[], object], generator: torch.Generator, _: Communicator = ALONE) -> None:
        self.function, self.generator = function, generator
        Played.made += 1

    def replay(self, generator: torch.Generator, times: int = 1) -> None:
        self.generator.set_state(generator.get_state())
        for _ in range(times):
            Played.replays += 1
            self.function()
        generator.set_state(self.generator.get_state())


def waiting_operation(function: Callable[[], object], _: torch.device) -> str:
    with Waiting() as waiting:
        function()
    return waiting.found[0] if waiting.found else ""


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Played]]:
    monkeypatch.setattr(graphed_moves, "Captured", Played)
    monkeypatch.setattr(graphed_moves, "on_side_stream", lambda function, _: function())
    monkeypatch.setattr(graphed_moves, "waiting_operation", waiting_operation)
    monkeypatch.setattr("nqs.samplers.metropolis.GRAPH_DEVICES", ("cpu",))
    Played.replays = Played.made = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield Played


@every_model
def test_replayed_moves_are_the_same(config: WavefunctionConfig, played: type[Played]) -> None:
    check_equal_to_moves_without(config, SPINS, "cpu", **STEPS["two kinds"])
    assert played.made == 1


@every_step
def test_replayed_moves_of_all_kinds_are_the_same(options: dict[str, Any], played: type[Played]) -> None:
    check_equal_to_moves_without(JastrowConfig(initial=0.3), SPINS, "cpu", **options)
    assert played.made == 1


def test_parameters_of_another_type_are_captured_again(played: type[Played]) -> None:
    check_other_type("cpu")
    assert played.made == 2


def check_other_type(device: str) -> None:
    """Draws before and after a change of the precision."""
    model = CONVOLUTIONS.build(SPINS, device)
    with_graph, without = (sampler(use_cuda_graph=use, n_steps=4).build(model) for use in (True, False))
    one, other = (torch.Generator(device).manual_seed(4) for _ in range(2))
    for _ in range(2):
        assert equal(with_graph.sample(one), without.sample(other))
        (graph,) = graphs_of(with_graph).values()
        assert next(graph.wavefunction.parameters()).dtype == next(model.parameters()).dtype
        model.to(torch.float32)


SPACES: dict[str, HilbertSpace] = {
    "bosons": bosons(4, 4),
    "electrons": spinful_fermions(4, 2, 1),
    "free spins": spins(5),
    "mixed spins": spins(4, 0, spin=(0.5, 1, 0.5, 1)),
    "many pairs": spins(26, 0),
    "blockade": HilbertSpace(6, ("0", "1"), (), (), (Exclusion([[i, i + 1] for i in range(5)]),)),
}
every_space = pytest.mark.parametrize("hilbert", SPACES.values(), ids=SPACES)


def local(hilbert: HilbertSpace) -> tuple[Moves, ...]:
    return (LocalMoves(sites=1),) if not hilbert.charges or hilbert.charges[0].target is None else (LocalMoves(),)


@every_space
def test_replayed_moves_are_the_same_in_every_space(hilbert: HilbertSpace, played: type[Played]) -> None:
    check_equal_to_moves_without(small_rbm(), hilbert, "cpu", n_steps=5, moves=local(hilbert), powers=(1, 0.6))
    assert played.replays


@pytest.mark.parametrize(
    ("options", "per_round"),
    [
        ({"n_steps": 3}, 3),
        ({"n_steps": 7, "moves": (LocalMoves(), LocalMoves(sites=3))}, 3),
        ({"n_steps": 7, "powers": (1, 0.5)}, 3),
        ({"n_steps": 7, "powers": (1, 0.5), "moves": (LocalMoves(), LocalMoves(sites=3))}, 3),
        ({"n_steps": 13, "powers": (1, 0.5), "moves": 3 * (LocalMoves(),)}, 2),
        ({"n_steps": 5, "powers": (1, 0.5), "moves": 3 * (LocalMoves(),)}, 0),  # shorter than a period
        ({"n_steps": 4, "use_cuda_graph": False}, 0),
        ({"n_steps": 4, "moves": (LocalMoves(), Redraw())}, 0),
        ({"n_steps": 4, "moves": (ConnectedMoves(Heisenberg(chain(6), 0)),)}, 0),
    ],
)
def test_a_graph_holds_a_period_of_moves(options: dict[str, Any], per_round: int, played: type[Played]) -> None:
    sampling = sampler(**options).build(small_rbm().build(SPINS))
    generator = torch.Generator().manual_seed(1)
    sampling.sample(generator)
    before = played.replays
    sampling.sample(generator)
    assert played.replays - before == 3 * per_round
    assert played.made == min(per_round, 1)


def test_chunks_of_memory_are_not_captured(played: type[Played], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed_moves, "max_chunk_rows", lambda *_, **__: 19)
    model = small_rbm().build(SPINS)
    sampler(20).build(model).sample(torch.Generator().manual_seed(1))
    assert not played.made
    sampler(19).build(model).sample(torch.Generator().manual_seed(1))
    assert played.made == 1


class Two(Communicator):
    """Rank 0 of two that have the same configurations to evaluate."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def any(self, flag: bool) -> bool:
        return flag


def test_a_graph_of_several_ranks_is_never_replayed_by_one(
    played: type[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, generator = sampler(20).build(small_rbm().build(SPINS)), torch.Generator().manual_seed(1)
    rows: list[int] = []

    def max_chunk_rows(_: int, __: torch.device, *, wanted: int) -> int:
        rows.append(wanted)
        return wanted

    monkeypatch.setattr(graphed_moves, "max_chunk_rows", max_chunk_rows)
    for ranks in (Two(), ALONE, Two(), ALONE):
        monkeypatch.setattr(graphed_moves, "communicator", lambda ranks=ranks: ranks)
        sampling.sample(generator)
    assert list(graphs_of(sampling)) == [2, 1]
    assert rows == [10, 20]
    assert played.made == 2


class Summed(Wavefunction):
    """A state of a user, who declares it capturable."""

    has_phase = False
    normalised = False
    capturable = True
    waits = True

    def __init__(self, hilbert: HilbertSpace) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.weight = torch.nn.Parameter(torch.linspace(0.0, 1.0, hilbert.n_sites, dtype=torch.float64))

    def log_psi(self, n: Tensor) -> LogPsi:
        log_modulus = n.double() @ self.weight
        if self.waits and log_modulus.max().item() > 10**6:
            log_modulus = log_modulus / 2
        return LogPsi(log_modulus, torch.zeros_like(log_modulus))

    @property
    def bytes_per_configuration(self) -> int:
        return 64


class Ready(Summed):
    waits = False


@pytest.mark.usefixtures("played")
def test_a_state_that_waits_moves_without_a_graph_after_one_warning() -> None:
    check_warning(Summed(SPINS))


def check_warning(model: Summed) -> None:
    """The same samples with one warning for several draws; none for a state that does not wait."""
    device = model.weight.device
    found = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for use in (True, False):
            sampling, generator = sampler(use_cuda_graph=use).build(model), torch.Generator(device).manual_seed(1)
            found.append([sampling.sample(generator) for _ in range(2)])
            assert not graphs_of(sampling)
    assert len(seen) == 1
    assert "Summed move without a CUDA graph" in str(seen[0].message)
    assert all(map(equal, *found))
    ready = sampler().build(Ready(SPINS).to(device))
    ready.sample(torch.Generator(device).manual_seed(1))
    assert graphs_of(ready)


def test_a_capture_that_fails_says_what_to_do(played: type[Played], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphed_moves, "Captured", fail)
    sampling = sampler().build(Ready(SPINS))
    with pytest.raises(RuntimeError, match=r"moves of Ready cannot be captured.*choose use_cuda_graph=False"):
        sampling.sample(torch.Generator().manual_seed(1))
    assert not played.made


# ------------------------------------------------------------------------------------------------- what is declared


@torch.no_grad()
@every_model
def test_wavefunctions_that_are_declared_capturable_never_wait(config: WavefunctionConfig) -> None:
    model, n = config.build(SPINS), SPINS.random(7, torch.Generator().manual_seed(1))
    assert model.capturable
    model.log_psi(n)  # makes tables
    with Waiting() as waiting:
        model.log_psi(n)
    assert not waiting.found


@torch.no_grad()
@every_space
def test_moves_that_are_declared_capturable_never_wait(hilbert: HilbertSpace) -> None:
    generator = torch.Generator().manual_seed(1)
    for moves in (*local(hilbert), LocalMoves(sites=2)):
        proposer = moves.build(hilbert, torch.device("cpu"))
        assert getattr(proposer, "capturable")  # noqa: B009
        n = hilbert.random(7, generator)
        proposer(n, generator)
        hilbert.contains(n)
        with Waiting() as waiting:
            moved = proposer(n, generator).configurations
            hilbert.contains(moved)
        assert not waiting.found


def test_what_waits_is_not_declared_capturable() -> None:
    h = FermiHubbard(chain(4), 2, 2, U=4.0)
    determinant = small_determinant()
    unknown = replace(CONVOLUTIONS, reference=Unknown())
    projected = Projected(base=JastrowConfig(initial=0.01), symmetry=symmetries_of(h, fermions=True))
    for config in (determinant, projected, ProductConfig(factors=(determinant, JastrowConfig(initial=0.01)))):
        assert not config.build(h.hilbert).capturable
    assert not unknown.build(SPINS).capturable


class Unknown:
    """A reference of a user, who declares nothing."""

    def phase(self, n: Tensor) -> Tensor:
        return torch.zeros(len(n), dtype=torch.float64, device=n.device)


def test_archives_hold_the_option_only_where_it_is_not_the_default() -> None:
    on, off = (metropolis(n_samples=300, use_cuda_graph=use) for use in (True, False))
    assert "use_cuda_graph" not in to_plain(on)
    assert to_plain(off)["use_cuda_graph"] is False
    types = {"MetropolisSampler": MetropolisSampler}
    assert [from_plain(to_plain(one), types) for one in (on, off)] == [on, off]


# ------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@every_step
@every_model
def test_graphed_moves_are_the_same_bit_for_bit(config: WavefunctionConfig, options: dict[str, Any]) -> None:
    check_equal_to_moves_without(config, SPINS, "cuda", **options)


@pytest.mark.gpu
@every_space
def test_graphed_moves_are_the_same_in_every_space(hilbert: HilbertSpace) -> None:
    check_equal_to_moves_without(small_rbm(), hilbert, "cuda", n_steps=5, moves=local(hilbert), powers=(1, 0.6))


@pytest.mark.gpu
def test_parameters_of_another_type_are_captured_again_on_a_gpu() -> None:
    check_other_type("cuda")


@pytest.mark.gpu
def test_graphs_of_several_numbers_of_walkers_live_side_by_side() -> None:
    model = CONVOLUTIONS.build(SPINS, "cuda")
    pairs = [[sampler(n, use_cuda_graph=use).build(model) for use in (True, False)] for n in (2000, 7, 300)]
    one, other = (torch.Generator("cuda").manual_seed(2) for _ in range(2))
    for _ in range(2):
        for with_graph, without in pairs:
            assert equal(with_graph.sample(one), without.sample(other))
    assert all(graphs_of(with_graph) for with_graph, _ in pairs)


@pytest.mark.gpu
def test_a_state_that_waits_for_the_gpu_moves_without_a_graph() -> None:
    check_warning(Summed(SPINS).to("cuda"))
    torch.rand(3, device="cuda").sum().item()  # the host may wait again


@pytest.mark.gpu
def test_the_default_recipe_of_the_large_lattice_is_the_same() -> None:
    """Steps and evaluation, with the network and the moves of 10x10 sites."""
    h = Heisenberg(square(10, 10), 0.0)
    plan = nqs.recipes.plan(h, device="cuda")
    of_steps = plan.stages[-1].sampler
    assert isinstance(of_steps, MetropolisSampler)
    assert of_steps.moves == near_moves(h.hilbert, h.lattice.bonds().tolist())
    psi = plan.model.build(h.hilbert, "cuda")
    for model, n_chains in ((psi.for_steps(), of_steps.n_chains), (psi, 100)):
        shorter = replace(of_steps, n_samples=n_chains, n_chains=n_chains, n_discarded=1)
        one, other = (torch.Generator("cuda").manual_seed(2) for _ in range(2))
        with_graph, without = (replace(shorter, use_cuda_graph=use).build(model) for use in (True, False))
        for _ in range(2):
            assert equal(with_graph.sample(one), without.sample(other))
        assert graphs_of(with_graph)


@pytest.mark.gpu
def test_a_run_with_convolutions_on_a_gpu() -> None:
    h = Heisenberg(square(4, 4), 0.0)
    result = nqs.ground_state(
        h, device="cuda", sampled=True, steps=30, model=NetworkOptions(network="convolutional"), progress=False
    )
    exact = -11.228483  # of exact diagonalisation
    assert result.estimate.energy == pytest.approx(exact, rel=0.02)
    assert result.estimate.energy > exact - 5 * result.estimate.error


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_chains_of_two_gpus_give_the_result_of_one(tmp_path: Path) -> None:
    command = "heisenberg --shape 4 4 --sampled --steps 10 --model.network convolutional --model.dtype float64"
    one, two = (energies(command, gpus, tmp_path) for gpus in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-8, atol=0)
