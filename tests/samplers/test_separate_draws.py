"""Samples drawn each on its own: distributed as |psi|^2, with their amplitudes; on a GPU the same recorded and not."""

from collections import Counter

import pytest
import torch
from networks import small_transformer
from replays import check_replays
from waiting import Waiting

from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.models import Transformer
from nqs.samplers import TreeSampler, cuda_graph
from nqs.samplers.separate_draws import Drawn, GraphedSeparateDraw, Separate, counted, separate_draw

SECTORS = {
    "bosons": bosons(4, 3),
    "spinful fermions": spinful_fermions(3, 2, 1),
    "spins": spins(6, 0),
    "one configuration": bosons(3, 0),
    "one site": bosons(1, n_max=3),
}
every_sector = pytest.mark.parametrize("hilbert", SECTORS.values(), ids=SECTORS)


def draw(model: Transformer, capacity: int, n_samples: int, generator: torch.Generator) -> Drawn:
    samples = separate_draw(model, capacity, generator)
    padded = counted(model.hilbert, samples, torch.tensor([n_samples], device=generator.device))
    return Drawn(*(part[: int(padded.number)] for part in padded.drawn))


def transformer(hilbert: HilbertSpace, device: str = "cpu", **options: int | str) -> Transformer:
    return small_transformer(**{"layers": 2, "seed": 3} | options).build(hilbert, device)


@torch.no_grad()
@every_sector
def test_samples_are_distributed_as_the_state(hilbert: HilbertSpace) -> None:
    model, number = transformer(hilbert), 20_000
    drawn = draw(model, number, number, torch.Generator().manual_seed(1))
    every = hilbert.configurations()
    p = (2 * model.log_psi(every).log_modulus).exp()
    counts = torch.zeros(len(every)).double()
    counts[hilbert.rank(drawn.tokens)] = drawn.counts.double()
    assert counts.sum() == number
    # chi^2 over configurations with at least 5 expected samples, six standard deviations above its mean at most
    often = number * p >= 5
    chi2 = ((counts - number * p).square() / (number * p))[often].sum().item()
    freedom = int(often.sum())
    assert chi2 < freedom + 6 * (2 * freedom) ** 0.5


@torch.no_grad()
@every_sector
@pytest.mark.parametrize("n_samples", [1, 3, 499, 500])
def test_samples_have_their_amplitudes_in_order(hilbert: HilbertSpace, n_samples: int) -> None:
    model = transformer(hilbert)
    drawn = draw(model, 500, n_samples, torch.Generator().manual_seed(2))
    assert drawn.counts.min() >= 1
    assert drawn.counts.sum() == n_samples
    plain = separate_draw(model, 500, torch.Generator().manual_seed(2)).tokens[:n_samples].tolist()
    assert Counter(map(tuple, plain)) == dict(
        zip(map(tuple, drawn.tokens.tolist()), drawn.counts.tolist(), strict=True)
    )
    hilbert.check(drawn.tokens)
    assert drawn.tokens.tolist() == sorted(drawn.tokens.tolist())
    log_psi = model.log_psi(drawn.tokens)
    torch.testing.assert_close(drawn.log_p / 2, log_psi.log_modulus, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(drawn.phase, log_psi.phase - model.reference_phase(drawn.tokens), rtol=1e-12, atol=1e-12)


@torch.no_grad()
@every_sector
def test_the_host_never_waits(hilbert: HilbertSpace) -> None:
    model, generator = transformer(hilbert), torch.Generator().manual_seed(1)
    n_samples = torch.tensor([10])
    counted(hilbert, separate_draw(model, 12, generator), n_samples)  # makes tables
    with Waiting() as waiting:
        padded = counted(hilbert, separate_draw(model, 12, generator), n_samples)
    assert not waiting.found
    with Waiting() as waiting:
        int(padded.number)
    assert waiting.found


@torch.no_grad()
def test_configurations_of_several_words_are_told_apart() -> None:
    """130 sites are three words of integers."""
    hilbert = bosons(130, n_max=1)
    n = hilbert.random(20, torch.Generator().manual_seed(1))
    n[10] = n[0]
    n[11] = n[0]
    n[11, 0] = 1 - n[0, 0]
    n[12] = n[0]
    n[12, -1] = 1 - n[0, -1]
    zero = torch.zeros(20, dtype=torch.float64)
    padded = counted(hilbert, Separate(n, zero, zero), torch.tensor([15]))
    found = padded.drawn.tokens[: int(padded.number)].tolist()
    assert list(map(tuple, found)) == sorted(set(map(tuple, n[:15].tolist())))
    assert int(padded.number) == 14
    assert padded.drawn.counts[:14].sum() == 15


def test_a_tree_is_drawn_where_samples_have_no_place_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    class Recorded:
        def __init__(self, model: Transformer, capacity: int, *_: object) -> None:
            self.model, self.capacity = model, capacity
            made.append(("separate", capacity))

        def __call__(self, _: Transformer, n_samples: int, generator: torch.Generator) -> Drawn:
            return draw(self.model, self.capacity, n_samples, generator)

    class Tree(Recorded):
        def __init__(self, model: Transformer, capacity: int, *_: object) -> None:
            made.append(("tree", capacity))
            raise NotImplementedError

    monkeypatch.setattr(cuda_graph, "GraphedSeparateDraw", Recorded)
    monkeypatch.setattr(cuda_graph, "GraphedDraw", Tree)
    cache, generator = cuda_graph.GraphCache(transformer(spins(20, 0))), torch.Generator().manual_seed(1)
    for n_samples in (100, 90, 100, 40):  # the graph for 128 is kept for 49 and more
        drawn = cache.draw(n_samples, None, generator)
        assert drawn is not None
        assert int(drawn.counts.sum()) == n_samples
    assert made == [("separate", 128), ("separate", 48)]
    for n_samples, n_distinct in ((10_000, 100), (20_000, None)):  # the second one is shared by several ranks
        with pytest.raises(NotImplementedError):
            cache.draw(n_samples, n_distinct, generator)
    assert made[2:] == [("tree", 128), ("tree", 24_576)]


# ------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
@every_sector
def test_recorded_draws_are_the_same_bit_for_bit(hilbert: HilbertSpace, attention: str) -> None:
    model = transformer(hilbert, attention=attention, device="cuda")
    recorded = GraphedSeparateDraw(model, 32, torch.device("cuda"))
    check_replays(model, recorded, lambda n_samples, generator: draw(model, 32, n_samples, generator), (32, 7))


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("phase", ["learned", "zero"])
def test_draws_of_the_tree_sampler_have_their_amplitudes(phase: str) -> None:
    model = small_transformer(width=16, layers=2, phase=phase).build(spins(20, 0), "cuda")
    sampler, generator = TreeSampler(n_samples=1000).build(model), torch.Generator("cuda").manual_seed(1)
    for _ in range(2):
        samples = sampler.sample(generator)
        assert samples.n_samples == 1000
        log_psi = model.log_psi(samples.configurations)
        torch.testing.assert_close(samples.log_modulus, log_psi.log_modulus, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(samples.phase, log_psi.phase, rtol=1e-10, atol=1e-10)
