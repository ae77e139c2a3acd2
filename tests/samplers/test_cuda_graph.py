"""Draws with static shapes: on a CPU those of the tree, seed for seed; on a GPU the same recorded and not."""

from typing import Any

import pytest
import torch
from networks import small_transformer
from replays import check_replays
from waiting import Waiting

from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import MarshallSign, Transformer
from nqs.runtime.distributed import ALONE, Communicator
from nqs.samplers import TreeSampler, cuda_graph
from nqs.samplers.cuda_graph import GraphedDraw, Leaves, capacity_for, padded_draw
from nqs.samplers.padded_decoding import PaddedDecoding, compacted

SECTORS = {
    "bosons": bosons(4, 3),
    "grand-canonical": bosons(3, n_max=2),
    "spinful fermions": spinful_fermions(3, 2, 1),
    "spins": spins(6, 0),
    "one configuration": bosons(3, 0),
    "one site": bosons(1, n_max=3),
}
every_sector = pytest.mark.parametrize("hilbert", SECTORS.values(), ids=SECTORS)


def transformer(hilbert: HilbertSpace, device: str = "cpu", **options: int | str) -> Transformer:
    return small_transformer(**{"layers": 2, "seed": 3} | options).build(hilbert, device)


@every_sector
@pytest.mark.parametrize("n_samples", [1, 7, 10**12])
def test_padded_draws_are_those_of_the_tree(hilbert: HilbertSpace, n_samples: int) -> None:
    model = transformer(hilbert)
    with torch.no_grad():
        samples = TreeSampler(n_samples=n_samples).build(model).sample(torch.Generator().manual_seed(1))
        capacity = samples.n_distinct + 3
        generator = torch.Generator().manual_seed(1)
        leaves = padded_draw(PaddedDecoding(model, capacity), torch.tensor([n_samples]), generator)
    U = int(leaves.number)
    assert samples.n_distinct == U
    assert torch.equal(leaves.tokens[:U], samples.configurations)
    assert samples.counts is not None
    assert torch.equal(leaves.counts[:U], samples.counts)
    assert not leaves.counts[U:].any()
    torch.testing.assert_close(leaves.log_p[:U] / 2, samples.log_modulus, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(leaves.phase[:U], samples.phase, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_missing_samples_are_noticed() -> None:
    model = transformer(SECTORS["spins"])
    for capacity in (1, 5, 19, 20):
        leaves = padded_draw(PaddedDecoding(model, capacity), torch.tensor([10**9]), torch.Generator().manual_seed(1))
        assert (int(leaves.largest) > capacity) == (capacity < 20)  # the sector has 20 configurations


@torch.no_grad()
@every_sector
def test_the_host_never_waits(hilbert: HilbertSpace) -> None:
    model = transformer(hilbert)
    n_samples, generator = torch.tensor([100]), torch.Generator().manual_seed(1)
    padded_draw(PaddedDecoding(model, 12), n_samples, generator)  # makes tables
    with Waiting() as waiting:
        leaves = padded_draw(PaddedDecoding(model, 12), n_samples, generator)
    assert not waiting.found
    with Waiting() as waiting:
        int(leaves.number)
    assert waiting.found


def test_compaction() -> None:
    chosen = torch.tensor([False, True, True, False, True])
    assert compacted(chosen, 4).tolist() == [1, 2, 4, 4]
    assert compacted(chosen, 2).tolist() == [1, 2]
    assert compacted(~chosen & chosen, 2).tolist() == [4, 4]


def test_capacity_is_rounded_up_and_bounded() -> None:
    model = transformer(spins(40, 0))
    assert [capacity_for(model, n, None) for n in (1, 2, 3, 5, 6, 7, 4096, 4097)] == [1, 2, 3, 6, 6, 8, 4096, 6144]
    assert capacity_for(model, 10**12, 4000) == 6144  # with a margin
    assert capacity_for(model, 10**12, None) is None
    assert capacity_for(transformer(bosons(4, 3)), 10**12, None) == 24  # of 20 configurations
    assert capacity_for(transformer(spins(40, 0), width=512), 2**15, None) is None  # too much memory


class Two(Communicator):
    """Rank 0 of two, whose messages say what this rank says."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def any(self, flag: bool) -> bool:
        return flag


def test_a_graph_of_several_ranks_is_never_replayed_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Recorded:
        def __init__(self, _: Any, capacity: int, __: Any, ___: int, ranks: Communicator) -> None:
            self.capacity, self.share = capacity, capacity
            made.append(ranks.size)

        def __call__(self, *_: Any) -> Leaves:
            one = torch.ones(1, dtype=torch.int64)
            number = torch.zeros(1, dtype=torch.float64)
            return Leaves(torch.zeros((1, 6), dtype=torch.uint8), one, number, number, one.expand(6), one[0])

    monkeypatch.setattr(cuda_graph, "GraphedDraw", Recorded)
    cache, generator = cuda_graph.GraphCache(transformer(SECTORS["spins"])), torch.Generator().manual_seed(1)
    for ranks in (Two(), ALONE, Two(), ALONE):
        assert cache.draw(40, 20, generator, ranks) is not None
    assert made == [2, 1]


# ------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed"])
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
@every_sector
def test_recorded_draws_are_the_same_bit_for_bit(hilbert: HilbertSpace, dtype: str, attention: str) -> None:
    model = transformer(hilbert, dtype=dtype, attention=attention, device="cuda")
    recorded = GraphedDraw(model, 32, torch.device("cuda"))

    def computed(n_samples: int, generator: torch.Generator) -> Leaves:
        return padded_draw(PaddedDecoding(model, 32), torch.tensor([n_samples], device="cuda"), generator)

    check_replays(model, recorded, computed, (10**3, 10**9, 1))


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["learned", "zero"])
def test_recorded_samples_have_their_amplitudes_and_number(phase: str) -> None:
    sign = MarshallSign(sublattice=(0, 1) * 10)
    config = small_transformer(width=16, layers=2, phase=phase, reference=sign)
    model = config.build(spins(20, 0), "cuda")
    sampler = TreeSampler(n_samples=3000, use_cuda_graph=True)
    generator = torch.Generator("cuda").manual_seed(1)
    for _ in range(3):
        samples = sampler.build(model).sample(generator)
        assert samples.n_samples == 3000
        assert bool(model.hilbert.contains(samples.configurations).all())
        assert len(torch.unique(model.hilbert.rank(samples.configurations))) == samples.n_distinct
        for found, wanted in zip(
            (samples.log_modulus, samples.phase), model.log_psi(samples.configurations), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
def test_recorded_samples_follow_the_distribution() -> None:
    model = transformer(bosons(4, 3), device="cuda")
    samples = (
        TreeSampler(n_samples=10**6, use_cuda_graph=True).build(model).sample(torch.Generator("cuda").manual_seed(2))
    )
    p = (2 * model.log_psi(model.hilbert.configurations(device="cuda")).log_modulus).exp()
    counts = torch.zeros_like(p)
    assert samples.counts is not None
    counts[model.hilbert.rank(samples.configurations)] = samples.counts.double()
    assert (counts - 10**6 * p).abs().max() < 5 * 10**3 / 2  # 5 standard errors at the worst p, 1/2


@pytest.mark.gpu
def test_a_wanted_number_of_distinct_samples_and_too_many_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(spins(20, 0), device="cuda")
    sampler = TreeSampler(n_distinct=1000, use_cuda_graph=True)
    assert 800 < sampler.build(model).sample(torch.Generator("cuda").manual_seed(2)).n_distinct < 1200
    monkeypatch.setattr("nqs.samplers.cuda_graph.MARGIN", 0.5)
    recorded, plain = (
        TreeSampler(n_distinct=1000, use_cuda_graph=recorded)
        .build(model)
        .sample(torch.Generator("cuda").manual_seed(2))
        for recorded in (True, False)
    )
    assert 800 < recorded.n_distinct < 1200  # drawn again without a recording
    assert plain.n_distinct != 0


def test_nothing_is_recorded_on_a_cpu() -> None:
    h = BoseHubbard(chain(4), 3, U=1.0)
    model = transformer(h.hilbert)
    one, other = (
        TreeSampler(n_samples=50, use_cuda_graph=recorded).build(model).sample(torch.Generator().manual_seed(2))
        for recorded in (True, False)
    )
    assert torch.equal(one.configurations, other.configurations)
