"""A list of configurations as a reference phase and as a start of autoregressive states."""

import json

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.archive.serialise import from_plain, to_plain
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions
from nqs.models import ListedState, Transformer
from nqs.samplers import GumbelSampler, TreeSampler
from nqs.vmc.continuation import known_types

SPACES = [spinful_fermions(4, 2, 1), bosons(4, 3)]
every_space = pytest.mark.parametrize("hilbert", SPACES, ids=str)


def listed(hilbert: HilbertSpace, rest: float = 0.01) -> tuple[ListedState, torch.Tensor]:
    """Five configurations in no order, with signs, and their ranks."""
    rank = torch.randperm(hilbert.dimension, generator=torch.Generator().manual_seed(1))[:5]
    amplitudes = np.array([0.8, -0.4, 0.3, -0.2, 0.1])
    return ListedState(configurations=hilbert.unrank(rank).numpy(), amplitudes=amplitudes, rest=rest), rank


def with_zero_logits(hilbert: HilbertSpace, reference: ListedState) -> Transformer:
    model = small_transformer(reference=reference, start="reference", initial_phases=1e-9).build(hilbert)
    with torch.no_grad():
        model.head.weight[: hilbert.local_dim] = 0.0
    return model


@every_space
def test_zero_logits_are_the_list_and_a_rest(hilbert: HilbertSpace) -> None:
    reference, rank = listed(hilbert)
    log_modulus, phase = with_zero_logits(hilbert, reference).log_psi(hilbert.configurations())
    p = (2 * log_modulus).exp().detach()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    a = torch.tensor([0.8, -0.4, 0.3, -0.2, 0.1], dtype=torch.float64)
    on_list = torch.zeros_like(p)
    on_list[rank] = 0.99 * a.square() / a.square().sum()
    rest = p - on_list
    assert (rest > 0).all()  # nothing is out of reach
    assert rest.sum().item() == pytest.approx(0.01, abs=1e-12)
    torch.testing.assert_close(torch.cos(phase[rank]).detach(), a.sign(), atol=1e-6, rtol=0)
    others = torch.ones(hilbert.dimension, dtype=torch.bool)
    others[rank] = False
    assert torch.cos(phase[others]).min() > 0.999


@every_space
def test_decoding_gives_the_amplitudes_of_whole_configurations(hilbert: HilbertSpace) -> None:
    model = small_transformer(layers=2, reference=listed(hilbert)[0], start="reference").build(hilbert)
    n = hilbert.configurations()
    expected = model.log_psi(n)
    for found in (log_psi_sharing_prefixes(model, n), model.log_psi_in_order(n, torch.zeros(len(n)).long())):
        torch.testing.assert_close(found.log_modulus, expected.log_modulus.detach())
        torch.testing.assert_close(found.phase, expected.phase.detach())
    for sampler in (TreeSampler(n_samples=10**9), GumbelSampler(n_distinct=7)):
        samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
        again = model.log_psi(samples.configurations)
        torch.testing.assert_close(samples.log_modulus, again.log_modulus.detach())
        torch.testing.assert_close(samples.phase, again.phase.detach())


def test_draws_follow_the_list() -> None:
    hilbert = SPACES[0]
    reference, rank = listed(hilbert, rest=1e-3)
    samples = TreeSampler(n_samples=10**6).build(with_zero_logits(hilbert, reference)).sample(
        torch.Generator().manual_seed(0)
    )  # fmt: skip
    found = samples.counts[hilbert.rank(samples.configurations) == rank[0]].item()
    expected = 10**6 * 0.999 * 0.64 / 0.94
    assert abs(found - expected) < 5 * expected**0.5 + 10**6 * 1e-3


def test_a_list_is_a_value_that_archives_keep() -> None:
    reference, _ = listed(SPACES[0])
    again = from_plain(json.loads(json.dumps(to_plain(reference))), known_types())
    assert again == reference
    assert hash(again) == hash(reference)
    n, amplitudes = reference.configurations, reference.amplitudes
    turned = ListedState(configurations=n[::-1].copy(), amplitudes=amplitudes[::-1], rest=1e-3)
    assert turned == ListedState(configurations=n, amplitudes=amplitudes, rest=1e-3)
    assert turned != reference  # another weight of the rest


def test_impossible_lists() -> None:
    n = np.zeros((2, 3), dtype=np.uint8)
    n[1, 0] = 1
    with pytest.raises(ValueError, match="configurations \\(D, L\\) of uint8"):
        ListedState(configurations=n.astype(np.int64), amplitudes=np.ones(2), rest=0.01)
    with pytest.raises(ValueError, match="amplitudes \\(D,\\)"):
        ListedState(configurations=n, amplitudes=np.ones(3), rest=0.01)
    with pytest.raises(ValueError, match="listed twice"):
        ListedState(configurations=n[[0, 0]], amplitudes=np.ones(2), rest=0.01)
    with pytest.raises(ValueError, match="not finite, or all 0"):
        ListedState(configurations=n, amplitudes=np.zeros(2), rest=0.01)
    with pytest.raises(ValueError, match="rest=0"):
        ListedState(configurations=n, amplitudes=np.ones(2), rest=0.0)
    with pytest.raises(ValueError, match="initial_logits=0"):
        small_transformer(initial_logits=0.0).build(SPACES[0])
