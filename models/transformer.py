"""Autoregressive transformer wavefunction, psi(n) = sqrt(p(n)) exp(i phi(n)), normalised over its sector.

p(n) = prod_s p(n_s | n_1 .. n_{s-1}) and phi(n) = sum_s phi_s(n_s | n_1 .. n_{s-1}). The conditionals are a softmax
over logits plus the log conditionals of the uniform distribution over the sector: what cannot lead into the sector
has probability exactly zero, every product of conditionals is normalised, and zero logits mean the uniform
superposition of the whole sector. Decoder-only, pre-norm blocks as in GPT-2 (Radford et al. 2019); sampling and
amplitudes as in Sharir et al., arXiv:1902.04057.
"""

# Shapes: B configurations, L sites, D width, d local states, A anchors, G configurations with a common prefix length.
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.attention import CausalSelfAttention, KeysValues, copy_rows, grown
from nqs.models.first_attention import MAX_LOCAL_STATES, FirstAttention, FirstAttentionAt
from nqs.models.inference import gelu, log_softmax_, rows_at_once, tokens_at_once
from nqs.models.normalisation import LayerNorm
from nqs.protocols import AutoregressiveWavefunction, Conditionals, LogPsi

SHARED_STEP = 2  # on a GPU prefix lengths are rounded down to a multiple: fewer and larger batches for a few sites more
WIDTH = 32  # where none is given


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size and start of the network.

    Attributes:
        width: embedding width D. None: 32; the scripts take less where a step would be long (nqs.recipes).
        layers: number of blocks.
        heads: attention heads; must divide width.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a positive wavefunction.
        dtype: precision of the network; conditionals and amplitudes are always formed in float64. "mixed" is float64
            for samples and energies and float32 for the natural gradient, which needs fewer digits.
        seed: of the initial parameters.
    """

    width: int | None = WIDTH
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 2
    phase: Literal["learned", "zero"] = "learned"
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_ratio"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1.")
        if (self.width or WIDTH) % self.heads:
            raise ValueError(f"width={self.width or WIDTH} is not divisible by heads={self.heads}; choose a multiple.")
        if self.phase not in ("learned", "zero"):
            raise ValueError(f"phase={self.phase!r}: choose 'learned' or 'zero'.")
        if self.dtype not in ("float64", "float32", "mixed"):
            raise ValueError(f"dtype={self.dtype!r}: choose 'float64', 'float32' or 'mixed'.")

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
    storage: tuple[Float[Tensor, "parts C heads L E"], ...]  # of keys and values, one a block, with C >= B rows
    first: FirstAttention | None  # tables; the storage of the first block then holds local states only

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

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.width or WIDTH
        hidden = config.mlp_ratio * D
        self.norm1 = LayerNorm(D)
        self.attention = CausalSelfAttention(D, config.heads)
        self.norm2 = LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def with_keys_values(self, x: Float[Tensor, "B L D"]) -> tuple[Float[Tensor, "B L D"], KeysValues]:
        y, keys_values = self.attention.with_keys_values(self.norm1(x))
        return self.add_(x, y), keys_values

    def after_prefix(
        self, x: Float[Tensor, "B T D"], anchors: Float[Tensor, "2 A H L E"], rows: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        return self.add_(x, self.attention.after_prefix(self.norm1(x), anchors, rows))

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "2 C H L E"], site: int) -> Float[Tensor, "B D"]:
        return self.add_(x, self.attention.step(self.norm1(x), storage, site))

    def add_(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The block's output, in place of its input x, from what its heads found; without gradients."""
        return self.add_mlp_(self.attention.add_output_(x, y))

    def add_mlp_(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """x + mlp(norm(x)), in place and without gradients."""
        inwards, outwards = cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2])
        hidden = gelu(inwards(self.norm2(x)))
        x.view(-1, x.shape[-1]).addmm_(hidden.flatten(0, -2), outwards.weight.mT)
        return x.add_(outwards.bias)


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
        config = replace(config or TransformerConfig(), **options)
        self.config = config = replace(config, width=config.width or WIDTH)
        self.width = config.width or WIDTH
        self.has_phase = config.phase == "learned"
        L, d, D = hilbert.n_sites, hilbert.local_dim, self.width
        # torch draws initial values of its own, which _initialise replaces; global random numbers stay as they were.
        # (On the meta device nothing would be drawn, but that loads a second's worth of Python modules.)
        with torch.random.fork_rng(devices=[]):
            self.token = nn.Embedding(d + 1, D)  # local state of the site before; d before the first site
            self.site = nn.Embedding(L, D)
            self.blocks = cast(list[Block], nn.ModuleList(Block(config) for _ in range(config.layers)))
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
        first = torch.full_like(n[:, :1], self.hilbert.local_dim, dtype=torch.int64)
        previous = torch.cat([first, n[:, :-1].long()], dim=1)  # (B, L)
        return self.token(previous) + self.site(torch.arange(self.hilbert.n_sites, device=n.device).expand(n.shape))

    def _log_uniform(self, n: UInt8[Tensor, "B L"], begin: int = 0) -> Float64[Tensor, "B T d"]:
        """From the site `begin` on."""
        sites = torch.arange(begin, self.hilbert.n_sites, device=n.device)
        return self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)[:, begin:]]

    @torch.no_grad()
    def start(self, batch: int) -> Prefixes:
        rows = torch.arange(batch, device=self.site.weight.device)
        remainder = torch.full_like(rows, self.hilbert.start)
        first = self._first_attention() if self.hilbert.local_dim <= MAX_LOCAL_STATES else None
        storage = [] if first is None else [first.storage(batch)]
        storage += [block.attention.storage(batch, self.hilbert.n_sites) for block in self._without_tables(first)]
        return Prefixes(-1, remainder, rows, tuple(storage), first)

    def _first_attention(self) -> FirstAttention | None:
        """Tables of the first block on a CPU; on a GPU computing is cheaper than looking up."""
        if self.site.weight.is_cuda:
            return None
        embedded = self.token.weight[:-1] + self.site.weight[:, None]  # (L, d, D)
        embedded[0] = self.token.weight[-1] + self.site.weight[0]
        return FirstAttention.of(embedded, self.blocks[0].norm1, self.blocks[0].attention)

    @torch.no_grad()
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Prefixes) -> tuple[Conditionals, Prefixes]:
        tables = self.hilbert.tables(state.remainder.device)
        remainder, site = state.remainder, state.site + 1
        if tokens is None:
            previous = torch.zeros_like(remainder)
        else:
            previous = tokens.long()
            remainder = tables.advance[remainder, previous]
        # The blocks work in the order of the storage.
        stored = torch.empty_like(previous).index_copy_(0, state.rows, previous)
        size = rows_at_once(stored.device)
        first = None if state.first is None else state.first.at(site)
        parts = [self._outputs(stored[i : i + size], state, site, first, i) for i in range(0, len(stored), size)]
        outputs = torch.cat(parts).index_select(0, state.rows)
        conditionals = self._from_outputs(outputs, tables.log_uniform[site, remainder])
        return conditionals, state._replace(site=site, remainder=remainder)

    def _outputs(
        self, previous: Int64[Tensor, " B"], state: Prefixes, site: int, first: FirstAttentionAt | None, begin: int
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
    def log_psi_near(
        self,
        n: UInt8[Tensor, "B L"],
        anchors: UInt8[Tensor, "A L"],
        rows: Int64[Tensor, " B"],
        shared: Int64[Tensor, " B"],
    ) -> LogPsi:
        """Keys and values of the anchors serve all configurations that start alike.

        A site sees only the sites before it: the conditionals of the first site that differs are those of the anchor,
        too. Configurations with nearly equal shared prefixes are evaluated together, from the shortest of them on.
        """
        L, first = self.hilbert.n_sites, self._first_attention()
        of_anchors, before, caches = self._anchors(anchors, first)
        order = shared.argsort(stable=True)
        step = SHARED_STEP if n.is_cuda else 1
        starts = (shared[order] // step * step).tolist()  # the one host synchronisation
        tokens = tokens_at_once(n.device, self.bytes_per_configuration / L)
        log_p, phase = (torch.empty(len(n), dtype=torch.float64, device=n.device) for _ in range(2))
        for start, size in Counter(starts).items():
            group, order = order[:size], order[size:]
            T = L - 1 - start
            for part in group.split(max(1, tokens // max(1, T))):
                row, n_part = rows[part], n[part]
                here = n_part[:, start].long()
                found = [b[row, start] + c[row, start, here] for b, c in zip(before, of_anchors, strict=True)]
                if T:
                    x = self._after_prefix(n_part, T, first, caches, row)
                    after = self._conditionals(x, self._log_uniform(n_part, start + 1))
                    rest = n_part[:, start + 1 :, None].long()
                    found = [f + more.gather(-1, rest).sum((1, 2)) for f, more in zip(found, after, strict=True)]
                log_p[part], phase[part] = found
        return LogPsi(log_p / 2, phase + self.reference_phase(n))

    def _anchors(
        self, n: UInt8[Tensor, "A L"], first: FirstAttention | None
    ) -> tuple[Conditionals, list[Float64[Tensor, "A L"]], list[Float[Tensor, "2 A H L E"]]]:
        """Their conditionals, log p and phase of what is before each site, and keys and values of the later blocks."""
        L, blocks = self.hilbert.n_sites, self._without_tables(first)
        caches = [block.attention.storage(len(n), L) for block in blocks]
        parts, size = [], max(1, tokens_at_once(n.device, self.bytes_per_configuration / L) // L)
        for begin in range(0, len(n), size):
            part = n[begin : begin + size]
            x = self._embed(part) if first is None else self._from_tables(part, L, first)
            for block, cache in zip(blocks, caches, strict=True):
                x, cache[:, begin : begin + size] = block.with_keys_values(x)
            parts.append(self._conditionals(x, self._log_uniform(part)))
        conditionals = Conditionals(*(torch.cat(of_parts) for of_parts in zip(*parts, strict=True)))
        chosen = [of_site.gather(-1, n.long()[..., None])[..., 0] for of_site in conditionals]
        return conditionals, [nn.functional.pad(c.cumsum(1)[:, :-1], (1, 0)) for c in chosen], caches

    def _after_prefix(
        self,
        n: UInt8[Tensor, "B L"],
        T: int,
        first: FirstAttention | None,
        caches: list[Float[Tensor, "2 A H L E"]],
        rows: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """The last T sites of the configurations, the rest of which is that of an anchor each."""
        if first is None:
            x = self.token(n[:, -1 - T : -1].long()) + self.site.weight[-T:]
        else:
            x = self._from_tables(n, T, first)
        for block, cache in zip(self._without_tables(first), caches, strict=True):
            x = block.after_prefix(x, cache, rows)
        return x

    def _from_tables(self, n: UInt8[Tensor, "B L"], T: int, first: FirstAttention) -> Float[Tensor, "B T D"]:
        """The last T sites after the first block."""
        return self.blocks[0].add_mlp_(first.after_prefix(first.rows(n), T))

    def _without_tables(self, first: FirstAttention | None) -> list[Block]:
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
