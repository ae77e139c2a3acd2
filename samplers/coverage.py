"""The most probable configurations of an autoregressive state, found without randomness.

Beam search keeps the k most probable prefixes at every site. With `branches` only the b most probable local states of
each prefix go on, so that several continuations of one next-site distribution are followed and rare ones are not.
Local states that are `given` restrict the search to configurations that have them, on any sites.

Expectation values are normalised sums over what was covered. The weight that is missing, 1 - sum |psi|^2, is known, the
value of what is missing is not: energies are without error bars unless all of the sector was covered.
"""

# Shapes: F prefixes on the beam, L sites, d local states.
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from nqs.hilbert import HilbertSpace, count_text
from nqs.protocols import Wavefunction
from nqs.runtime.options import check_fields
from nqs.samplers.decoding import GROUPS, Decoding
from nqs.samplers.independent import Independent, autoregressive
from nqs.samples import Samples

COMPLETE = 1e-9  # missing weight that is rounding error


@dataclass(frozen=True, kw_only=True)
class CoverageSampler:
    """The n_distinct most probable configurations that a beam of this width finds.

    Args:
        n_distinct: width of the beam, at most the dimension of the sector.
        branches: largest number of local states that a prefix goes on with; None: all.
        given: local state by site, such as {0: 1, 5: 0}; kept as pairs.
        groups: on several ranks, number of prefixes that are dealt to them (nqs.samplers.decoding).

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> samples = CoverageSampler(n_distinct=35, given={0: 4}).build(model).sample(torch.Generator())
    >>> samples.configurations.tolist()
    [[4, 0, 0, 0]]
    """

    n_distinct: int
    branches: int | None = None
    given: Mapping[int, int] | tuple[tuple[int, int], ...] = field(default=())
    groups: int = field(default=GROUPS, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        check_fields(self, at_least={"n_distinct": 1, "branches": 1, "groups": 1})
        pairs = self.given.items() if isinstance(self.given, Mapping) else self.given
        object.__setattr__(self, "given", tuple(sorted((int(site), int(state)) for site, state in pairs)))

    def build(self, wavefunction: Wavefunction) -> "Coverage":
        """
        Raises:
            TypeError: the wavefunction is not autoregressive.
            ValueError: more configurations than the sector has, or given states that no configuration has.
        """
        return Coverage(self, wavefunction)


class Coverage(Independent):
    """Beam search of one wavefunction."""

    def __init__(self, config: CoverageSampler, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.base = autoregressive(wavefunction, config)
        hilbert = self.base.hilbert
        if config.n_distinct > hilbert.dimension:
            raise ValueError(
                f"n_distinct={config.n_distinct:,} of {count_text(hilbert.dimension)} configurations: give at most as "
                "many, or use ExhaustiveSampler."
            )
        self._given = dict(config.given)
        check_given(hilbert, self._given)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """The covered configurations, the most probable first; the generator only names the device.

        Raises:
            ValueError: the beam has left all configurations with the given states: widen it.
        """
        wavefunction, hilbert, config = self.base, self.base.hilbert, self.config
        tokens = torch.empty((1, 0), dtype=torch.uint8, device=generator.device)
        log_p = phase = torch.zeros(1, dtype=torch.float64, device=generator.device)
        decoding = Decoding(wavefunction, config.groups)
        state = decoding.start(1)
        for site in range(hilbert.n_sites):
            conditionals, state = decoding.step(tokens[:, -1] if site else None, state)
            step = conditionals.log_p
            if site in self._given:
                others = torch.arange(step.shape[1], device=step.device) != self._given[site]
                step = step.masked_fill(others, -torch.inf)
            if config.branches is not None and config.branches < step.shape[1]:
                least = step.topk(config.branches, dim=1).values[:, -1:]
                step = step.masked_fill(step < least, -torch.inf)
            child = (log_p[:, None] + step).flatten()  # (F d)
            possible = int((child != -torch.inf).sum())
            if not possible:
                raise ValueError(
                    f"no prefix on the beam reaches the given states at site {site}: raise n_distinct or branches."
                )
            log_p, chosen = child.topk(min(config.n_distinct, possible))
            rows, token = chosen // hilbert.local_dim, chosen % hilbert.local_dim
            tokens = torch.cat([tokens[rows], token[:, None].to(torch.uint8)], dim=1)
            phase = phase[rows] + conditionals.phase[rows, token]
            if site + 1 < hilbert.n_sites:
                state = decoding.deal(state.branch(rows), log_p)
        p = log_p.exp()
        complete = abs(p.sum().item() - 1) < COMPLETE
        samples = Samples(
            configurations=tokens,
            weights=(log_p - log_p.logsumexp(0)).exp(),
            log_modulus=log_p / 2,
            phase=phase + wavefunction.reference_phase(tokens),
            inclusion_probability=torch.full_like(p, 1.0 if complete else torch.nan),
        )
        return self.wavefunction.from_base_samples(samples)


def check_given(hilbert: HilbertSpace, given: Mapping[int, int]) -> None:
    """Raises ValueError: a site or local state that the space has not, or no configuration of the sector has them."""
    for site, state in given.items():
        if not 0 <= site < hilbert.n_sites:
            raise ValueError(f"given names site {site} of {hilbert.n_sites}: sites are 0 to {hilbert.n_sites - 1}.")
        if not 0 <= state < hilbert.local_dims[site]:
            raise ValueError(
                f"given has the local state {state} at site {site}, which has the states 0 to "
                f"{hilbert.local_dims[site] - 1}."
            )
    tables = hilbert.tables("cpu")
    reached = {hilbert.start}
    for site in range(hilbert.n_sites):
        states = [given[site]] if site in given else range(hilbert.local_dim)
        remainders, advance = sorted(reached), tables.advance if tables.advance.ndim == 2 else tables.advance[site]
        possible = tables.log_uniform[site][remainders][:, states] > -torch.inf
        reached = set(advance[remainders][:, states][possible].tolist())
        if not reached:
            raise ValueError(f"no configuration has the given local states {dict(given)}; the sector is {hilbert}.")
