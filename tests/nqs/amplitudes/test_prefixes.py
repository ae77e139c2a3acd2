"""Shared prefixes: their length and their tree by brute force, and the same amplitudes and energies without sharing."""

from dataclasses import replace

import pytest
import torch
from networks import small_transformer

from nqs.amplitudes import prefixes
from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.amplitudes.prefixes import common_prefix, log_psi_sharing_prefixes
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain, square
from nqs.models import MarshallSign
from nqs.models.inference import kernels as inference
from nqs.models.inference.prefix_tree import PrefixTree
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.runtime import memory as chunks
from nqs.runtime.memory import in_chunks
from nqs.samplers import TreeSampler
from nqs.samples import distinct

SPACES = {
    "bosons": bosons(6, 4),
    "electrons": spinful_fermions(5, 2, 1),
    "keys of several words": spins(130, 0),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def longest_common_prefix(a: list[int], b: list[int]) -> int:
    return next((s for s, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def draw(space: HilbertSpace, rows: int, seed: int) -> torch.Tensor:
    return space.random(rows, torch.Generator().manual_seed(seed))


@every_space
def test_distinct_configurations_are_in_lexicographic_order(space: HilbertSpace) -> None:
    n = draw(space, 60, 0)[torch.arange(120) % 60]
    rows, classes = distinct(space, n)
    assert n[rows].tolist() == sorted({tuple(row): list(row) for row in n.tolist()}.values())
    assert torch.equal(n[rows[classes]], n)


@every_space
def test_common_prefixes_are_those_of_lists(space: HilbertSpace) -> None:
    n, m = draw(space, 50, 1), draw(space, 50, 2)
    n[0] = m[0]
    expected = [longest_common_prefix(a, b) for a, b in zip(n.tolist(), m.tolist(), strict=True)]
    assert common_prefix(n, m).tolist() == expected


def shared_prefixes(n: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0))


@every_space
@pytest.mark.parametrize(("step", "tokens"), [(1, 10**9), (1, 40), (3, 40), (2, 1)])
def test_every_prefix_is_evaluated_once_and_kept_where_it_is_read(space: HilbertSpace, step: int, tokens: int) -> None:
    n = torch.unique(draw(space, 80, 3), dim=0)
    S = space.n_sites
    tree = PrefixTree(shared_prefixes(n), S, step, lambda T: tokens // (1 + T))
    seen_by = [[tuple(row[:site]) for site in range(S)] for row in n.tolist()]
    kept: list[tuple[int, ...]] = []  # of each node
    evaluated, read, rows = [], set(), []
    for part in tree:
        rows += part.rows.tolist()
        assert len(part.rows) <= max(1, tokens // (1 + S - part.begin))
        for row, nodes in zip(part.rows.tolist(), part.read.tolist(), strict=True):
            assert [kept[node] for node in nodes[: part.begin]] == seen_by[row][: part.begin]
            assert set(nodes[part.begin :]) <= {0}
            read.update(nodes[: part.begin])
        here = [prefix for row in part.rows.tolist() for prefix in seen_by[row][part.begin :]]
        assert part.nodes == slice(len(kept), len(kept) + len(part.kept))
        kept += [here[place] for place in part.kept.tolist()]
        evaluated += here
    assert sorted(rows) == list(range(len(n)))
    assert read == set(range(len(kept)))
    assert len(kept) == tree.n_nodes
    distinct_prefixes = {prefix for row in seen_by for prefix in row}
    assert set(evaluated) == distinct_prefixes
    if step == 1:
        assert len(evaluated) == len(distinct_prefixes)


HAMILTONIANS: dict[str, Hamiltonian] = {
    "bosons": BoseHubbard(chain(10), 10, U=3.0),
    "bosons with flux": BoseHubbard(chain(8), 6, U=3.0, phases=tuple(chain(8).twist_phases([0.4]).tolist())),
    "spins": Heisenberg(chain(16), 0.0),
    "electrons": FermiHubbard(square(2, 4), 4, 4, U=4.0),
}


def family(h: Hamiltonian) -> torch.Tensor:
    """What is connected to some configurations, in lexicographic order."""
    return torch.unique(h.connected(draw(h.hilbert, 20, 1)).configurations, dim=0)


def lively(h: Hamiltonian, dtype: str = "float64", attention: str = "dot-product") -> Wavefunction:
    config = small_transformer(layers=2, dtype=dtype, attention=attention, seed=5)
    sign = MarshallSign(sublattice=tuple(site % 2 for site in range(h.hilbert.n_sites)))
    model = replace(config, reference=sign).build(h.hilbert)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


@pytest.mark.parametrize("h", HAMILTONIANS.values(), ids=HAMILTONIANS)
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_local_energies_are_the_same_with_and_without_sharing(
    h: Hamiltonian, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(h, attention=attention)
    samples = TreeSampler(n_samples=150).build(model).sample(torch.Generator().manual_seed(0))
    sizes = []
    original = model.log_psi_in_order
    monkeypatch.setattr(model, "log_psi_in_order", lambda n, shared: sizes.append(len(n)) or original(n, shared))
    shared = local_energies(h, model, samples)
    assert sum(sizes) == shared.n_evaluated > 150
    model.shares_prefixes = False
    plain = local_energies(h, model, samples)
    assert sum(sizes) == shared.n_evaluated == plain.n_evaluated
    torch.testing.assert_close(shared.values, plain.values, rtol=1e-11, atol=1e-11)


def test_single_precision_agrees_to_its_rounding() -> None:
    h = HAMILTONIANS["bosons"]
    model = lively(h, "float32")
    n = family(h)
    for one, other in zip(log_psi_sharing_prefixes(model, n), model.log_psi(n), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def check_pieces(model: Wavefunction, n: torch.Tensor, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.log_psi(n)
    sizes = []
    original = model.log_psi_in_order
    monkeypatch.setattr(model, "log_psi_in_order", lambda n, shared: sizes.append(len(n)) or original(n, shared))
    for one, other in zip(log_psi_sharing_prefixes(model, n), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert sum(sizes) == len(n)
    assert max(sizes) == min(len(n), size)


def bytes_of_piece(model: Wavefunction, n: torch.Tensor) -> int:
    """Of one configuration in it: a share of the prefixes that are kept, and indices."""
    kept = shared_prefixes(n).diff().clamp(min=0).sum().item() / len(n)
    return int(kept * model.bytes_per_shared_site) + prefixes.INDEX_BYTES * n.shape[1]


@pytest.mark.parametrize("size", [1, 7, 50, 10**6])
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_pieces_of_any_size_give_the_same_amplitudes(
    size: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n = lively(HAMILTONIANS["bosons"], attention=attention), family(HAMILTONIANS["bosons"])
    monkeypatch.setattr(prefixes, "CPU_BYTES", size * bytes_of_piece(model, n))
    check_pieces(model, n, size, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_on_a_gpu_pieces_are_sized_by_what_they_keep(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = lively(HAMILTONIANS["spins"]).cuda(), family(HAMILTONIANS["spins"]).cuda()
    monkeypatch.setattr(prefixes, "GPU_BYTES", size * bytes_of_piece(model, n))
    check_pieces(model, n, size, monkeypatch)


@pytest.mark.gpu
def test_on_a_gpu_a_piece_takes_the_memory_that_it_is_sized_by(monkeypatch: pytest.MonkeyPatch) -> None:
    h = Heisenberg(chain(64), 0.0)
    model = small_transformer(width=64, layers=4, heads=4, dtype="float32").build(h.hilbert, "cuda")
    n = torch.unique(h.connected(draw(h.hilbert, 1000, 1)).configurations, dim=0).cuda()
    shared = shared_prefixes(n)
    monkeypatch.setattr(inference, "GPU_BYTES", 2**24)
    model.log_psi_in_order(n[:100], shared[:100])  # work space of the libraries
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model.log_psi_in_order(n, shared)
    taken = torch.cuda.max_memory_allocated() - before
    assert 0.5 * len(n) * bytes_of_piece(model, n) < taken < 1.1 * len(n) * bytes_of_piece(model, n) + 2**26


def test_out_of_memory_within_a_piece_halves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = lively(HAMILTONIANS["bosons"]), family(HAMILTONIANS["bosons"])
    expected = model.log_psi(n)
    original = model.log_psi_in_order

    def limited(n: torch.Tensor, shared: torch.Tensor) -> object:
        if len(n) > 30:
            raise torch.OutOfMemoryError("too large")
        return original(n, shared)

    monkeypatch.setattr(model, "log_psi_in_order", limited)
    for one, other in zip(log_psi_sharing_prefixes(model, n), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_where_little_is_shared_configurations_are_evaluated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an order in which neighbours differ on the first site."""
    space = spins(8, None)
    model = small_transformer(layers=2).build(space)
    n = space.configurations().view(2, 128, 8).transpose(0, 1).flatten(0, 1)
    monkeypatch.setattr(model, "log_psi_in_order", None)
    expected = model.log_psi(n)
    for one, other in zip(log_psi_sharing_prefixes(model, n), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- memory


class SmallDevice:
    """Evaluates at most `limit` rows at once, as a device of little memory does."""

    def __init__(self, limit: int) -> None:
        self.limit, self.sizes = limit, []

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > self.limit:
            raise torch.OutOfMemoryError("too large")
        self.sizes.append(len(rows))
        return rows * 2


def test_out_of_memory_halves_the_pieces_and_goes_on() -> None:
    device = SmallDevice(limit=13)
    pieces = in_chunks(device, torch.arange(100), 64)
    assert torch.equal(torch.cat(pieces), 2 * torch.arange(100))
    assert device.sizes == [8] * 12 + [4]
    small = SmallDevice(limit=13)  # what is left sets the size where that is less than a piece
    assert torch.equal(torch.cat(in_chunks(small, torch.arange(30), 10**6)), 2 * torch.arange(30))
    assert small.sizes == [8, 8, 8, 6]


def test_small_batches_do_not_ask_a_gpu_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(chunks, "free_memory", lambda device: asked.append(device) or 4000)
    gpu = torch.device("cuda")
    assert chunks.max_chunk_rows(10, gpu, wanted=7000) == 7000
    assert not asked
    assert chunks.max_chunk_rows(chunks.SMALL, gpu, wanted=2) == 1  # of a quarter of what is free
    assert chunks.max_chunk_rows(10, gpu, wanted=7000, gpu_bytes=500) == 50
    assert chunks.max_chunk_rows(10, gpu) == 100
    assert len(asked) == 3


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        in_chunks(SmallDevice(limit=0), torch.arange(5), 5)


def test_amplitudes_survive_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    h = HAMILTONIANS["bosons"]
    model = lively(h)
    n = draw(h.hilbert, 100, 1)
    expected, log_psi = model.log_psi(n), model.log_psi

    def limited(n: torch.Tensor) -> object:
        if len(n) > 30:
            raise torch.OutOfMemoryError("too large")
        return log_psi(n)

    monkeypatch.setattr(model, "log_psi", limited)
    monkeypatch.setattr(chunks, "CPU_BYTES", 2**40)
    for one, other in zip(log_psi_in_chunks(model, n), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
