"""Cached decoding of a transformer: results of `DenseDecoder`, without evaluating a site twice.

A site attends only to earlier sites, so that its keys, values and conditionals are valid for every configuration with
the same prefix. `step` reads them from the storage of the prefixes; `log_psi_in_order` evaluates all prefixes
that given configurations share as a tree.
"""

# Shapes: B configurations, L sites, D width, d local states, S sites before an end, T last of them, N nodes of a tree
# of prefixes.
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.attention import CausalSelfAttention
from nqs.models.factored_attention import FactoredAttention
from nqs.models.inference.cached_attention import CachedDotProduct, CachedFactored
from nqs.models.inference.first_attention import FirstAttention, rows_of_tables
from nqs.models.inference.first_factored import FirstFactored
from nqs.models.inference.kernels import add_output_, add_product_, gelu, take_rows, tokens_at_once
from nqs.models.inference.prefix_tree import Branches, PrefixTree
from nqs.models.inference.prefixes import FirstTables, Prefixes
from nqs.models.normalisation import LayerNorm
from nqs.models.references.conditionals import StartConditionals
from nqs.protocols import Conditionals, LogPsi

MAX_LOCAL_STATES = 4  # limit for tables in `step`: larger one-hot products are mostly zeros
READ_SITES = 8  # reading this many prefix sites costs about as much memory and time as evaluating one site
# On a GPU prefix lengths of fewer than LARGE configurations are rounded down to a multiple: fewer, larger batches at
# the cost of a few extra sites (6.8 million determinants of N2 in cc-pVDZ: 8.1 instead of 7.5 each).
SHARED_STEP, LARGE = 2, 2**18


class NetworkBlock(Protocol):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); mlp: a linear layer, gelu, a linear layer."""

    norm1: LayerNorm
    attention: CausalSelfAttention | FactoredAttention
    norm2: LayerNorm
    mlp: nn.Sequential


class Network(Protocol):
    """The parts of a transformer that a decoder uses."""

    hilbert: HilbertSpace
    has_phase: bool
    norm: LayerNorm
    head: nn.Linear
    start_from: StartConditionals | None

    @property
    def blocks(self) -> Sequence[NetworkBlock]: ...

    @property
    def bytes_per_configuration(self) -> int: ...

    def previous(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Local state of the site before, d before the first site."""

    def embedded(self, previous: Int64[Tensor, "*B"], sites: Int64[Tensor, "*S"] | int) -> Float[Tensor, "*B D"]:
        """Input of the first block: a site, or sites, and the local state of the site before it."""

    def of_outputs(self, outputs: Float[Tensor, "*B out"], log_start: Float64[Tensor, "*B d"]) -> Conditionals:
        """Conditionals from the outputs of the head."""

    def reference_phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]: ...


class CachedBlock:
    """A block with stored attention to earlier sites, without gradients."""

    def __init__(self, block: NetworkBlock) -> None:
        self.block = block
        attention = block.attention
        self.inwards, self.outwards = cast(nn.Linear, block.mlp[0]), cast(nn.Linear, block.mlp[2])
        self.attention: CachedDotProduct | CachedFactored
        if isinstance(attention, FactoredAttention):
            self.attention = CachedFactored(attention)
        else:
            self.attention = CachedDotProduct(attention)

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "_ _"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        return self._add_(x, self.attention.after_prefix(self.block.norm1(x), storage, part))

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "_ C _ L _"], site: int) -> Float[Tensor, "B D"]:
        return self._add_(x, self.attention.step(self.block.norm1(x), storage, site))

    def _add_(self, x: Float[Tensor, "*B D"], found: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The block's output from its heads, overwriting its input x."""
        out = self.block.attention.out
        normed = self.block.norm2.shifted_(add_product_(out, x, found), out.bias)
        return add_output_(self.outwards, x, gelu(self.inwards(normed)))

    def add_mlp_(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """x + mlp(norm2(x)), in place."""
        return add_output_(self.outwards, x, gelu(self.inwards(self.block.norm2(x))))


class Decoder:
    """`start`, `step` and `log_psi_in_order` of a transformer. Stateless: the caller holds the prefixes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.hilbert = network.hilbert
        self.blocks = [CachedBlock(block) for block in network.blocks]

    # --- site by site -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, batch: int) -> Prefixes:
        weight = self.network.head.weight
        remainder = torch.full((batch,), self.hilbert.start, device=weight.device)
        first = self.first_tables() if self.hilbert.local_dim <= MAX_LOCAL_STATES else None
        L, d = self.hilbert.n_sites, self.hilbert.local_dim
        storage = [] if first is None else [weight.new_empty((1, batch, 1, L, d))]
        storage += [block.attention.storage(batch, L) for block in self._without_tables(first)]
        begin = self.network.start_from
        return Prefixes(-1, remainder, None, tuple(storage), first, None if begin is None else begin.start(batch))

    @torch.no_grad()
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Prefixes) -> tuple[Conditionals, Prefixes]:
        tables = self.hilbert.tables(state.remainder.device)
        remainder, site = state.remainder, state.site + 1
        if tokens is None:
            previous = torch.zeros_like(remainder)
        else:
            previous = tokens.long()
            remainder = tables.after(state.site, remainder, previous)
            if state.begun is not None:
                assert self.network.start_from is not None
                self.network.start_from.extend_(state.begun, state.site, previous)
        if site == self._sites_with_a_choice:
            log_p = tables.log_uniform[site].index_select(0, remainder)
            return Conditionals(log_p, torch.zeros_like(log_p)), state._replace(site=site, remainder=remainder)
        if state.rows is None:
            outputs = self._outputs(previous, state, site)
        else:  # the blocks work in the order of the storage
            stored = torch.empty_like(previous).index_copy_(0, state.rows, previous)
            outputs = self._outputs(stored, state, site).index_select(0, state.rows)
        log_start = tables.log_uniform[site].index_select(0, remainder)
        if state.begun is not None:
            assert self.network.start_from is not None
            log_start = self.network.start_from.log_start_(state.begun, site, log_start)
        conditionals = self.network.of_outputs(outputs, log_start)
        return conditionals, state._replace(site=site, remainder=remainder)

    def _outputs(self, previous: Int64[Tensor, " B"], state: Prefixes, site: int) -> Float[Tensor, "B out"]:
        """Of the head, in the order of the storage, from the local states chosen last (0 at first)."""
        storage = [block[:, : len(previous)] for block in state.storage]
        if state.first is None:
            before = previous if site else torch.full_like(previous, self.hilbert.local_dim)
            x = self.blocks[0].step(self.network.embedded(before, site), storage[0], site)
        else:
            x = self.blocks[0].add_mlp_(state.first.at(site).step(previous, storage[0]))
        for block, stored in zip(self.blocks[1:], storage[1:], strict=True):
            x = block.step(x, stored, site)
        return self.network.head(self.network.norm(x))

    # --- with shared prefixes ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        """log psi with common prefixes of consecutive configurations evaluated once, for the first of them.

        Keys, values and conditionals of sites that later configurations share are stored. Configurations with shared
        prefixes of equal length are evaluated together, shortest first.
        """
        network, end, d = self.network, self._sites_with_a_choice, self.hilbert.local_dim
        step = SHARED_STEP if n.is_cuda and len(n) < LARGE else 1
        tree = PrefixTree(shared, end, step, self._rows_at_once(n.device))
        first = self.first_tables()
        previous = network.previous(n)[:, :end]
        log_uniform, remainders = self.hilbert.tables(n.device).log_uniform, self.hilbert.remainders(n)
        uniform_rows = remainders + log_uniform.shape[1] * torch.arange(self.hilbert.n_sites, device=n.device)
        log_uniform = log_uniform.flatten(0, 1)
        log_start = None
        if network.start_from is not None:
            log_start = network.start_from.of(n, log_uniform[uniform_rows])
        storage = [block.attention.nodes(max(1, tree.n_nodes)) for block in self._without_tables(first)]
        parts = 2 if network.has_phase else 1  # log p and phase
        of_nodes = torch.empty((parts, max(1, tree.n_nodes), d), dtype=torch.float64, device=n.device)
        found = torch.zeros((2, len(n)), dtype=torch.float64, device=n.device)
        for part in tree:
            rows, begin = part.rows, part.begin
            chosen = n[rows, :end].long()
            read = part.read[:, :begin] * d + chosen[:, :begin]
            of_part = [of_node.take(read).sum(1) for of_node in of_nodes]
            if begin < end:
                x = self._after_prefix(previous[rows], first, storage, part).flatten(0, 1)
                if log_start is None:
                    zero_logits = take_rows(log_uniform, uniform_rows[rows, begin:end].flatten())
                else:
                    zero_logits = log_start[rows, begin:end].flatten(0, 1)
                conditionals = network.of_outputs(network.head(network.norm(x)), zero_logits)[:parts]
                for of_row, of_node, evaluated in zip(of_part, of_nodes, conditionals, strict=True):
                    part.keep_(of_node, evaluated)
                    of_row += evaluated.view(len(rows), -1, d).gather(2, chosen[:, begin:, None]).sum((1, 2))
            found[:parts, rows] = torch.stack(of_part)
        log_p, phase = found
        if end < self.hilbert.n_sites:  # log 1 in the sector
            log_p += log_uniform[uniform_rows[:, end], n[:, end].long()]
        return LogPsi(log_p / 2, phase + network.reference_phase(n))

    def _after_prefix(
        self,
        previous: Int64[Tensor, "B S"],
        first: FirstTables | None,
        storage: list[Float[Tensor, "_ _"]],
        part: Branches,
    ) -> Float[Tensor, "B T D"]:
        """Outputs of the blocks for the last T of S sites; some sites become nodes."""
        S = previous.shape[1]
        if first is None:
            sites = torch.arange(part.begin, S, device=previous.device)
            x = self.network.embedded(previous[:, part.begin :], sites)
        else:
            rows = rows_of_tables(previous, self.hilbert.local_dim)
            x = self.blocks[0].add_mlp_(first.after_prefix(rows, S - part.begin))
        for block, stored in zip(self._without_tables(first), storage, strict=True):
            x = block.after_prefix(x, stored, part)
        return x

    def _rows_at_once(self, device: torch.device) -> Callable[[int], int]:
        """Chunk size, as a function of the number T of sites to evaluate."""
        L, end = self.hilbert.n_sites, self._sites_with_a_choice
        itemsize = self.network.head.weight.element_size()
        # Memory per site, with attention scores and the earlier sites that are read.
        scores = itemsize * self.blocks[0].attention.scores_per_site(end)
        tokens = tokens_at_once(device, self.network.bytes_per_configuration // L + scores)
        return lambda T: tokens // (1 + T + end // READ_SITES)

    @property
    def bytes_per_shared_site(self) -> int:
        """Memory that `log_psi_in_order` keeps for each site of a prefix that several configurations share."""
        numbers = sum(block.attention.stored_per_site for block in self.blocks)
        return numbers * self.network.head.weight.element_size() + 2 * 8 * self.hilbert.local_dim

    # --- both -------------------------------------------------------------------------------------------------------

    def first_tables(self) -> FirstTables | None:
        """Tables of the first block; None where computing is cheaper (queries and keys on a GPU)."""
        block = self.blocks[0].block
        factored = isinstance(block.attention, FactoredAttention)
        too_large, on_gpu = self.hilbert.local_dim > MAX_LOCAL_STATES, self.network.head.weight.is_cuda
        if (factored and too_large) or (not factored and on_gpu):
            return None
        L, d, device = self.hilbert.n_sites, self.hilbert.local_dim, self.network.head.weight.device
        previous = torch.arange(d, device=device).repeat(L, 1)
        previous[0].fill_(d)  # before the first site there is none
        embedded = self.network.embedded(previous, torch.arange(L, device=device)[:, None])  # (L, d, D)
        if isinstance(block.attention, FactoredAttention):
            return FirstFactored.of(embedded, block.norm1, block.attention)
        return FirstAttention.of(embedded, block.norm1, block.attention)

    @property
    def _sites_with_a_choice(self) -> int:
        """Number of sites that contribute to log psi: a determined last site does only with a phase."""
        determined = self.hilbert.last_is_determined and not self.network.has_phase
        return max(1, self.hilbert.n_sites - determined)

    def _without_tables(self, first: FirstTables | None) -> list[CachedBlock]:
        return self.blocks[0 if first is None else 1 :]
