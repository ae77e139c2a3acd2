"""Threads: one for small steps, as many as asked for, and the number that scripts report."""

from collections.abc import Iterator

import pytest
import torch

from nqs.hamiltonians import Ising
from nqs.hilbert import spins
from nqs.lattice import chain
from nqs.models import Symmetrised, Transformer, TransformerConfig
from nqs.protocols import Sampler
from nqs.recipes.threads import jacobian_entries, use_threads_for
from nqs.runtime.threads import FEW, MANY
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import translations

SMALL, LARGE = (Transformer(spins(L, 0), width=8, heads=2) for L in (6, 20))
P_SMALL, P_LARGE = (sum(p.numel() for p in model.parameters()) for model in (SMALL, LARGE))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("sampler", "model", "entries"),
    [
        (ExhaustiveSampler(), SMALL, 20 * P_SMALL),
        (TreeSampler(n_samples=7), SMALL, 7 * P_SMALL),
        (TreeSampler(n_samples=10**6), SMALL, 20 * P_SMALL),
        (TreeSampler(n_distinct=600), LARGE, 600 * P_LARGE),
        (GumbelSampler(n_distinct=300), LARGE, 300 * P_LARGE),
    ],
)
def test_one_thread_for_small_steps(sampler: Sampler, model: Transformer, entries: int) -> None:
    assert jacobian_entries(sampler, model) == entries
    assert use_threads_for(None, sampler, model) == torch.get_num_threads() == (1 if entries < MANY else 2)


def test_one_thread_for_averages_of_small_networks() -> None:
    h = Ising(chain(20), h=1.0)
    group = translations(chain(20), h.hilbert)
    for width, threads in ((32, 2), (16, 1)):
        base = TransformerConfig(width=width, phase="zero")
        assert (sum(p.numel() for p in base.build(h.hilbert).parameters()) < FEW) == (threads == 1)
        model = Symmetrised(base=base, symmetry=group).build(h.hilbert)
        assert jacobian_entries(TreeSampler(n_distinct=150), model) > MANY
        assert use_threads_for(None, TreeSampler(n_distinct=150), model) == threads


def test_a_sampler_of_ones_own_keeps_what_torch_has() -> None:
    class Mine:
        def sample(self, wavefunction: object, generator: object) -> None: ...

    assert use_threads_for(None, Mine(), SMALL) == 2


def test_a_number_is_obeyed_and_checked() -> None:
    assert use_threads_for(3, ExhaustiveSampler(), SMALL) == torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="threads=0: at least one"):
        use_threads_for(0, ExhaustiveSampler(), SMALL)
    assert torch.get_num_threads() == 3
