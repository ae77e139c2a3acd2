"""Autoregressive transformer wavefunction, psi(n) = sqrt(p(n)) exp(i phi(n)), normalised over its sector.

p(n) = prod_s p(n_s | n_1 .. n_{s-1}) and phi(n) = sum_s phi_s(n_s | n_1 .. n_{s-1}). The conditionals are a softmax
over logits plus the log conditionals of the uniform distribution over the sector: what cannot lead into the sector
has probability exactly zero, every product of conditionals is normalised, and zero logits mean the uniform
superposition of the whole sector. Decoder-only, pre-norm blocks as in GPT-2 (Radford et al. 2019); sampling and
amplitudes as in Sharir et al., arXiv:1902.04057.
"""

# Shapes: B configurations, L sites, D width, d local states, S sites before an end, T last of them, N nodes of a tree
# of prefixes, W = 2 D.
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.attention import CausalSelfAttention, copy_rows, grown
from nqs.models.factored_attention import FactoredAttention
from nqs.models.inference.first_attention import MAX_LOCAL_STATES, FirstAttention, FirstAttentionAt, rows_of_tables
from nqs.models.inference.first_factored import FirstFactored, FirstFactoredAt
from nqs.models.inference.kernels import add_output_, gelu, log_softmax_, rows_at_once, take_rows, tokens_at_once
from nqs.models.inference.prefix_tree import Branches, PrefixTree
from nqs.models.normalisation import LayerNorm
from nqs.protocols import AutoregressiveWavefunction, Conditionals, LogPsi

READ_SITES = 8  # of a prefix take about as much memory and time as an evaluated one
SHARED_STEP = 2  # on a GPU prefix lengths are rounded down to a multiple: fewer and larger batches for a few sites more
WIDTH, HEADS = 32, 4  # where none are given

FirstTables = FirstAttention | FirstFactored
FirstTablesAt = FirstAttentionAt | FirstFactoredAt


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size and start of the network.

    Attributes:
        width: embedding width D. None: 32; the scripts take less where a step would be long (nqs.recipes).
        layers: number of blocks.
        heads: attention heads; must divide width. None: 4, or one a channel in factored attention.
        attention: "dot-product" (queries and keys) or "factored" (weights that depend on positions alone, see
            nqs.models.factored_attention). None: "dot-product"; the scripts take "factored" for averages over images.
        displacements: class of every pair of sites, L x L, for factored attention: pairs of one class share weights, as
            those of one displacement do in `Lattice.displacements`. None: every pair has its own.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a positive wavefunction.
        dtype: precision of the network; conditionals and amplitudes are always formed in float64. "mixed" is float64
            for samples and energies and float32 for the natural gradient, which needs fewer digits. None: "mixed"; the
            scripts take "float32" where noise is larger (nqs.recipes).
        seed: of the initial parameters.
    """

    width: int | None = WIDTH
    layers: int = 2
    heads: int | None = None
    attention: Literal["dot-product", "factored"] | None = "dot-product"
    displacements: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: int = 2
    phase: Literal["learned", "zero"] = "learned"
    dtype: Literal["float64", "float32", "mixed"] | None = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_ratio"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1.")
        if self.attention not in ("dot-product", "factored", None):
            raise ValueError(f"attention={self.attention!r}: choose 'dot-product' or 'factored'.")
        if self.attention == "dot-product" and self.displacements is not None:
            raise ValueError("displacements are for attention='factored'; queries and keys have no use for them.")
        width, heads = self.width or WIDTH, self.n_heads
        if width % heads and (self.heads or self.attention):
            raise ValueError(f"{width=} is not divisible by {heads=}; choose a multiple.")
        if self.phase not in ("learned", "zero"):
            raise ValueError(f"phase={self.phase!r}: choose 'learned' or 'zero'.")
        if self.dtype not in ("float64", "float32", "mixed", None):
            raise ValueError(f"dtype={self.dtype!r}: choose 'float64', 'float32' or 'mixed'.")

    @property
    def n_heads(self) -> int:
        """Attention heads, also where none are given."""
        return self.heads or ((self.width or WIDTH) if self.attention == "factored" else HEADS)

    def completed(self) -> "TransformerConfig":
        """With values for what was None, apart from displacements."""
        attention, dtype = self.attention or "dot-product", self.dtype or "mixed"
        return replace(self, width=self.width or WIDTH, heads=self.n_heads, attention=attention, dtype=dtype)

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Transformer":
        """The network on a sector."""
        return Transformer(hilbert, self, device=device)


class Prefixes(NamedTuple):
    """Decoding state: what the sites chosen so far leave behind.

    Keys and values stay where they were written while prefixes branch: every prefix owns a row of the storage, the
    first child takes over the row of its parent, and only further children need a copy.
    """

    site: int  # the last one decoded, -1 before the first
    remainder: Int64[Tensor, " B"]  # charge still missing, see HilbertSpace
    rows: Int64[Tensor, " B"]  # of the storage, a permutation of 0 .. B - 1
    # Of keys and values, one a block, with C >= B rows.
    storage: tuple[Float[Tensor, "parts C heads L E"], ...]
    first: FirstTables | None  # tables; the storage of the first block then holds local states only

    def select(self, indices: Int64[Tensor, " B2"]) -> Self:
        storage = tuple(block[:, self.rows[indices]] for block in self.storage)
        rows = torch.arange(len(indices), device=indices.device)
        return self._replace(remainder=self.remainder[indices], rows=rows, storage=storage)

    def branch(self, indices: Int64[Tensor, " B2"]) -> Self:
        children = torch.arange(len(indices), device=indices.device)
        first = torch.full_like(self.rows, len(indices)).scatter_reduce_(0, indices, children, "amin")  # of each parent
        rows = self.rows[indices]
        stays = (first[indices] == children) & (rows < len(indices))
        free = torch.ones_like(children, dtype=torch.bool).index_fill_(0, rows[stays], False).nonzero()[:, 0]
        moved = (~stays).nonzero()[:, 0]
        storage = self.storage
        if storage[0].shape[1] < len(indices):
            storage = tuple(grown(block, len(indices)) for block in storage)
        if len(moved):
            for block in storage:
                copy_rows(block, rows[moved], free, self.site + 1)
            rows[moved] = free
        return self._replace(remainder=self.remainder[indices], rows=rows, storage=storage)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, n_sites: int) -> None:
        super().__init__()
        D, heads = config.width or WIDTH, config.n_heads
        hidden = config.mlp_ratio * D
        self.norm1 = LayerNorm(D)
        self.attention: CausalSelfAttention | FactoredAttention
        if config.attention == "factored":
            self.attention = FactoredAttention(D, heads, n_sites, config.displacements)
        else:
            self.attention = CausalSelfAttention(D, heads)
        self.norm2 = LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "_ _"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        return self.add_(x, self.attention.after_prefix(self.norm1(x), storage, part))

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "_ C _ L _"], site: int) -> Float[Tensor, "B D"]:
        return self.add_(x, self.attention.step(self.norm1(x), storage, site))

    def add_(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The block's output, in place of its input x, from what its heads found; without gradients."""
        return self.add_mlp_(add_output_(self.attention.out, x, y))

    def add_mlp_(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """x + mlp(norm(x)), in place and without gradients."""
        inwards, outwards = cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2])
        return add_output_(outwards, x, gelu(inwards(self.norm2(x))))


class Transformer(AutoregressiveWavefunction[Prefixes]):
    """Decoder-only transformer over the local states of a sector.

    Args:
        hilbert: the sector; it fixes the number of sites and local states.
        config: size, precision and seed; keyword options override single fields: `Transformer(hilbert, width=48)`.
        device: where the parameters live.

    >>> from nqs.hilbert import bosons
    >>> space = bosons(3, 3)
    >>> model = Transformer(space, width=8, heads=2)
    >>> log_modulus, phase = model.log_psi(space.configurations())
    >>> print(f"{(2 * log_modulus).exp().sum().item():.12f}")  # normalised without a Markov chain
    1.000000000000
    """

    config: TransformerConfig
    shares_prefixes = True
    rowwise_layers = True

    def __init__(
        self,
        hilbert: HilbertSpace,
        config: TransformerConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config = replace(config or TransformerConfig(), **options).completed()
        self.width = config.width or WIDTH
        self.has_phase = config.phase == "learned"
        L, d, D = hilbert.n_sites, hilbert.local_dim, self.width
        pairs = config.displacements
        if pairs is not None and (len(pairs) != L or {len(row) for row in pairs} != {L}):
            raise ValueError(
                f"displacements are classes of {len(pairs)} x {len(pairs[0]) if pairs else 0} pairs, but the sector "
                f"has {L} sites: take lattice.displacements() of the same lattice."
            )
        # torch draws initial values of its own, which _initialise replaces; global random numbers stay as they were.
        # (On the meta device nothing would be drawn, but that loads a second's worth of Python modules.)
        with torch.random.fork_rng(devices=[]):
            self.token = nn.Embedding(d + 1, D)  # local state of the site before; d before the first site
            self.site = nn.Embedding(L, D)
            self.blocks = cast(list[Block], nn.ModuleList(Block(config, L) for _ in range(config.layers)))
            self.norm = LayerNorm(D)
            self.head = nn.Linear(D, 2 * d if self.has_phase else d)  # logits, then phases
        self._initialise(torch.Generator().manual_seed(config.seed))
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Weights normal with variance 1 / inputs, biases 0, norms 1; logits small, phases of order 1.

        A phase head of exactly zero is a stationary point of every real Hamiltonian and would never learn; a small one
        leaves it late, with wrong signs frozen in.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.1 if name.startswith("head") else 0.5 if name in ("token.weight", "site.weight") else 1.0
                inputs = 1 if name in ("token.weight", "site.weight") else parameter.shape[1]
                inputs = self.hilbert.n_sites if name.endswith("mixing.weight") else inputs
                parameter.normal_(0.0, scale / inputs**0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        if self.has_phase:
            self.head.weight[self.hilbert.local_dim :] *= 10.0

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        x = self._embed(n)
        for block in self.blocks:
            x = block(x)
        return self._conditionals(x, self._log_uniform(n))

    def _embed(self, n: UInt8[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """What a site is and what the site before it holds."""
        sites = torch.arange(self.hilbert.n_sites, device=n.device).expand(n.shape)
        return self.token(self._previous(n)) + self.site(sites)

    def _previous(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Local state of the site before, d before the first site."""
        first = torch.full_like(n[:, :1], self.hilbert.local_dim, dtype=torch.int64)
        return torch.cat([first, n[:, :-1].long()], dim=1)

    def _log_uniform(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, "B L d"]:
        sites = torch.arange(self.hilbert.n_sites, device=n.device)
        return self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]

    @torch.no_grad()
    def start(self, batch: int) -> Prefixes:
        rows = torch.arange(batch, device=self.site.weight.device)
        remainder = torch.full_like(rows, self.hilbert.start)
        first = self._first_tables() if self.hilbert.local_dim <= MAX_LOCAL_STATES else None
        L, d = self.hilbert.n_sites, self.hilbert.local_dim
        storage = [] if first is None else [self.site.weight.new_empty((1, batch, 1, L, d))]
        storage += [block.attention.storage(batch, L) for block in self._without_tables(first)]
        return Prefixes(-1, remainder, rows, tuple(storage), first)

    def _first_tables(self) -> FirstTables | None:
        """Of the first block; with queries and keys on a GPU computing is cheaper than looking up."""
        attention, norm = self.blocks[0].attention, self.blocks[0].norm1
        factored = isinstance(attention, FactoredAttention)
        too_large, on_gpu = self.hilbert.local_dim > MAX_LOCAL_STATES, self.site.weight.is_cuda
        if (factored and too_large) or (not factored and on_gpu):
            return None
        embedded = self.token.weight[:-1] + self.site.weight[:, None]  # (L, d, D)
        embedded[0] = self.token.weight[-1] + self.site.weight[0]
        if isinstance(attention, FactoredAttention):
            return FirstFactored.of(embedded, norm, attention)
        return FirstAttention.of(embedded, norm, attention)

    @torch.no_grad()
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Prefixes) -> tuple[Conditionals, Prefixes]:
        tables = self.hilbert.tables(state.remainder.device)
        remainder, site = state.remainder, state.site + 1
        if tokens is None:
            previous = torch.zeros_like(remainder)
        else:
            previous = tokens.long()
            remainder = tables.after(state.site, remainder, previous)
        if site == self._sites_with_a_choice:
            log_p = tables.log_uniform[site, remainder]
            return Conditionals(log_p, torch.zeros_like(log_p)), state._replace(site=site, remainder=remainder)
        # The blocks work in the order of the storage.
        stored = torch.empty_like(previous).index_copy_(0, state.rows, previous)
        size = rows_at_once(stored.device)
        first = None if state.first is None else state.first.at(site)
        parts = [self._outputs(stored[i : i + size], state, site, first, i) for i in range(0, len(stored), size)]
        outputs = torch.cat(parts).index_select(0, state.rows)
        conditionals = self._from_outputs(outputs, tables.log_uniform[site, remainder])
        return conditionals, state._replace(site=site, remainder=remainder)

    def _outputs(
        self, previous: Int64[Tensor, " B"], state: Prefixes, site: int, first: FirstTablesAt | None, begin: int
    ) -> Float[Tensor, "B out"]:
        """Of the head, for rows of the storage from `begin` on and the local states chosen last."""
        storage = [block[:, begin : begin + len(previous)] for block in state.storage]
        if first is not None:
            x = self.blocks[0].add_mlp_(first.step(previous, storage[0]))
        else:
            token = self.token(previous) if site else self.token.weight[-1].expand(len(previous), -1)
            x = self.blocks[0].step(token + self.site.weight[site], storage[0], site)
        for block, stored in zip(list(self.blocks)[1:], storage[1:], strict=True):
            x = block.step(x, stored, site)
        return self.head(self.norm(x))

    @torch.no_grad()
    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        """Every prefix that consecutive configurations have in common is evaluated once, for the first of them.

        A site sees only the sites before it: its keys, values and conditionals serve all that continue the prefix, and
        are kept where there are several of them. Configurations with equally long shared prefixes are evaluated
        together, in the order of these lengths.
        """
        end, d = self._sites_with_a_choice, self.hilbert.local_dim
        # Of a site, with the scores of queries and keys, and of the sites before it that are read.
        bytes_per_site = self.bytes_per_configuration // self.hilbert.n_sites
        if self.config.attention == "dot-product":
            bytes_per_site += 2 * self.config.n_heads * end * self.site.weight.element_size()
        tokens = tokens_at_once(n.device, bytes_per_site)
        step = SHARED_STEP if n.is_cuda else 1
        tree = PrefixTree(shared, end, step, lambda T: tokens // (1 + T + end // READ_SITES))
        first, previous = self._first_tables(), self._previous(n)[:, :end]
        log_uniform, remainders = self.hilbert.tables(n.device).log_uniform, self.hilbert.remainders(n)
        uniform_rows = remainders + log_uniform.shape[1] * torch.arange(self.hilbert.n_sites, device=n.device)
        log_uniform = log_uniform.flatten(0, 1)
        storage = [block.attention.nodes(max(1, tree.n_nodes)) for block in self._without_tables(first)]
        parts = 2 if self.has_phase else 1  # log p and phase
        of_nodes = torch.empty((parts, max(1, tree.n_nodes), d), dtype=torch.float64, device=n.device)
        found = torch.zeros((2, len(n)), dtype=torch.float64, device=n.device)
        for part in tree:
            rows, begin = part.rows, part.begin
            chosen = n[rows, :end].long()
            read = part.read[:, :begin] * d + chosen[:, :begin]
            of_part = [of_node.take(read).sum(1) for of_node in of_nodes]
            if begin < end:
                x = self._after_prefix(previous[rows], first, storage, part).flatten(0, 1)
                uniform = take_rows(log_uniform, uniform_rows[rows, begin:end].flatten())
                conditionals = self._conditionals(x, uniform)[:parts]
                for of_row, of_node, evaluated in zip(of_part, of_nodes, conditionals, strict=True):
                    part.keep_(of_node, evaluated)
                    of_row += evaluated.view(len(rows), -1, d).gather(2, chosen[:, begin:, None]).sum((1, 2))
            found[:parts, rows] = torch.stack(of_part)
        log_p, phase = found
        if end < self.hilbert.n_sites:  # log 1 in the sector
            log_p += log_uniform[uniform_rows[:, end], n[:, end].long()]
        return LogPsi(log_p / 2, phase + self.reference_phase(n))

    def _after_prefix(
        self,
        previous: Int64[Tensor, "B S"],
        first: FirstTables | None,
        storage: list[Float[Tensor, "_ _"]],
        part: Branches,
    ) -> Float[Tensor, "B T D"]:
        """The last T of S sites, of which some become nodes."""
        S = previous.shape[1]
        if first is None:
            x = self.token(previous[:, part.begin :]) + self.site.weight[part.begin : S]
        else:
            x = self.blocks[0].add_mlp_(
                first.after_prefix(rows_of_tables(previous, self.hilbert.local_dim), S - part.begin)
            )
        for block, stored in zip(self._without_tables(first), storage, strict=True):
            x = block.after_prefix(x, stored, part)
        return x

    @property
    def _sites_with_a_choice(self) -> int:
        """All that contribute to log psi: a last site that the others determine does not, unless it has a phase."""
        return max(1, self.hilbert.n_sites - (self.hilbert.last_is_determined and not self.has_phase))

    def _without_tables(self, first: FirstTables | None) -> list[Block]:
        return list(self.blocks)[0 if first is None else 1 :]

    def _conditionals(self, x: Float[Tensor, "*B D"], log_uniform: Float64[Tensor, "*B d"]) -> Conditionals:
        return self._from_outputs(self.head(self.norm(x)), log_uniform)

    def _from_outputs(self, outputs: Float[Tensor, "*B out"], log_uniform: Float64[Tensor, "*B d"]) -> Conditionals:
        outputs = outputs.double()  # (*B, d or 2 d)
        if self.has_phase:
            logits, phase = outputs.chunk(2, dim=-1)
        else:
            logits, phase = outputs, torch.zeros_like(outputs)
        logits = logits + log_uniform
        return Conditionals(logits.log_softmax(-1) if torch.is_grad_enabled() else log_softmax_(logits), phase)

    @property
    def bytes_per_configuration(self) -> int:
        # Per site at the widest point: residual, normed input, and q, k, v with attention or the hidden layer twice.
        widest = 2 + max(4, 2 * self.config.mlp_ratio)
        itemsize = self.site.weight.element_size()
        return self.hilbert.n_sites * (widest * self.width * itemsize + 6 * 8 * self.hilbert.local_dim)

    @property
    def bytes_per_shared_site(self) -> int:
        tensors = 1 if self.config.attention == "factored" else 2  # values, and keys
        of_block = tensors * self.width * self.site.weight.element_size()
        return self.config.layers * of_block + 2 * 8 * self.hilbert.local_dim
