r"""A state on a list of configurations: its phases as a reference, its weights as a start of autoregressive states.

    |psi(n)|^2 = |a_n|^2 on the list  +  epsilon q(n),

where q is the product over the sites of how often each local state occurs in the listed state, restricted to the
sector, so that nothing in the sector is out of reach. Conditionals follow from the weights of all prefixes: those of
the list stand in a tree of prefixes, whose nodes the prefixes of a batch walk through site by site.
"""

# Shapes: B configurations or prefixes, L sites, d local states, D listed configurations, N nodes.
import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.runtime.memory import in_chunks, max_chunk_rows

LEAST = 1e-3  # occurrence of a local state, at least
CPU_BYTES, COPIES = 2**22, 6  # of tables (L, d) of a chunk of configurations, which stay in the cache; their number


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedState:
    """Phase of a listed amplitude, 0 for configurations that are not listed.

    Args:
        configurations: distinct, (D, L), uint8.
        amplitudes: real or complex, (D,).
        rest: epsilon, the weight of all configurations that are not listed.

    Raises:
        ValueError: shapes that do not fit, configurations that are listed twice, no amplitude, or a weight out of
            range.
    """

    configurations: np.ndarray = field(repr=False)
    amplitudes: np.ndarray = field(repr=False)
    rest: float

    def __post_init__(self) -> None:
        n, a = np.asarray(self.configurations), np.asarray(self.amplitudes)
        if n.ndim != 2 or not len(n) or a.shape != (len(n),) or n.dtype != np.uint8:
            raise ValueError(
                f"a list has configurations (D, L) of uint8 and amplitudes (D,), at least one; found {n.dtype} of "
                f"shape {n.shape}, and {a.shape}."
            )
        if len(np.unique(n, axis=0)) < len(n):
            raise ValueError("a configuration is listed twice: add its amplitudes.")
        if not np.isfinite(a).all() or not a.any():
            raise ValueError("the amplitudes of the list are not finite, or all 0.")
        if not 0 < self.rest < 1:
            raise ValueError(f"rest={self.rest}: the weight of what is not listed is above 0 and below 1.")
        order = np.lexsort(n.T[::-1])
        object.__setattr__(self, "configurations", np.ascontiguousarray(n[order]))
        object.__setattr__(self, "amplitudes", np.ascontiguousarray(a[order]))

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        return self._tree.to(n.device).phase(n)

    def conditionals(self, local_dim: int) -> "ListedConditionals":
        """For models that start from this state."""
        return ListedConditionals(self, local_dim)

    @cached_property
    def _tree(self) -> "PrefixNodes":
        return PrefixNodes(self, int(self.configurations.max()) + 1)

    @cached_property
    def _digest(self) -> bytes:
        parts = (self.configurations, self.amplitudes, np.float64(self.rest))
        return hashlib.sha256(
            b"".join(part.tobytes() for part in parts) + repr(self.configurations.shape).encode()
        ).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListedState) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


class PrefixNodes:
    """Distinct prefixes of a list in lexicographic order; node 0 stands for all others, node 1 is empty."""

    def __init__(self, listed: ListedState, local_dim: int) -> None:
        n, weight = listed.configurations, np.abs(listed.amplitudes) ** 2
        weight = weight / weight.sum()
        D, L = n.shape
        node, total = np.ones(D, dtype=np.int64), 2
        child = [np.zeros((2, local_dim), dtype=np.int64)]
        weights = [np.array([0.0, 1.0])]
        for site in range(L):
            pair = node * local_dim + n[:, site]
            found, place = np.unique(pair, return_inverse=True)
            new = total + np.arange(len(found))
            parents, tokens = found // local_dim, found % local_dim
            child.append(np.zeros((len(found), local_dim), dtype=np.int64))
            table = np.concatenate(child)
            table[parents, tokens] = new
            child = [table]
            weights.append(np.bincount(place, weights=weight, minlength=len(found)))
            node, total = new[place], total + len(found)
        angle = np.zeros(total)
        angle[node] = np.angle(listed.amplitudes)
        self.child = torch.from_numpy(child[0])  # (N, d)
        weights_of_nodes = torch.from_numpy(np.concatenate(weights))
        self.log_weight = weights_of_nodes.clamp(min=0).log()  # -inf of prefixes that are not listed
        self.angle = torch.from_numpy(angle)
        occurs = np.stack([np.bincount(n[:, s], weights=weight, minlength=local_dim) for s in range(L)])
        self.log_occurs = torch.from_numpy(np.log(occurs.clip(min=LEAST)))  # (L, d)

    def to(self, device: torch.device) -> "PrefixNodes":
        for name in ("child", "log_weight", "angle", "log_occurs"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Of the listed amplitudes."""
        n, d = n.long(), self.child.shape[1]
        node = torch.ones_like(n[:, 0])
        inside = (n < d).all(1)
        n = n.clamp(max=d - 1)
        child = self.child.flatten()
        for site in range(n.shape[1]):
            node = child[node * d + n[:, site]]
        return torch.where(inside, self.angle[node], 0.0)


class ListedConditionals:
    """Conditionals of |a|^2 + epsilon q; the state of a prefix: its node, log q, and log q of each next local state."""

    def __init__(self, listed: ListedState, local_dim: int) -> None:
        self.tree = PrefixNodes(listed, local_dim)
        self.local_dim = local_dim
        self.log_list, self.log_rest = math.log1p(-listed.rest), math.log(listed.rest)

    def to(self, device: torch.device) -> "ListedConditionals":
        self.tree.to(device)
        return self

    def start(self, batch: int) -> Float64[Tensor, "B S"]:
        state = torch.zeros((batch, 2 + self.local_dim), dtype=torch.float64, device=self.tree.child.device)
        state[:, 0] = 1
        return state

    def log_start_(
        self, state: Num[Tensor, "B S"], site: int, log_uniform: Float64[Tensor, "B d"]
    ) -> Float64[Tensor, "B d"]:
        """log p of every local state, up to normalisation; its log q is kept in the state."""
        log_q = (self.tree.log_occurs[site] + log_uniform).log_softmax(-1)
        state[:, 2:] = log_q
        listed = self.tree.log_weight[self.tree.child[state[:, 0].long()]]  # (B, d)
        rest = self.log_rest + state[:, 1:2] + log_q
        return torch.logaddexp(self.log_list + listed, rest).masked_fill(log_uniform.isneginf(), -torch.inf)

    def extend_(self, state: Num[Tensor, "B S"], site: int, chosen: Int64[Tensor, " B"]) -> None:
        state[:, 1] += state[:, 2:].gather(1, chosen[:, None])[:, 0]
        state[:, 0] = self.tree.child[state[:, 0].long(), chosen].double()

    def of(self, n: UInt8[Tensor, "B L"], log_uniform: Float64[Tensor, "B L d"]) -> Float64[Tensor, "B L d"]:
        """`log_start_` at all sites of whole configurations."""
        if not len(n):
            return log_uniform
        rows = max_chunk_rows(8 * COPIES * log_uniform[0].numel(), n.device, CPU_BYTES)
        return torch.cat(
            in_chunks(lambda part: self._of(n[part], log_uniform[part]), torch.arange(len(n), device=n.device), rows)
        )

    def _of(self, n: UInt8[Tensor, "B L"], log_uniform: Float64[Tensor, "B L d"]) -> Float64[Tensor, "B L d"]:
        chosen, B = n.long(), len(n)
        log_q = (self.tree.log_occurs + log_uniform).log_softmax(-1)
        of_chosen = log_q.gather(2, chosen[..., None])[..., 0]
        before = of_chosen.cumsum(1) - of_chosen  # (B, L)
        node = torch.ones(B, dtype=torch.int64, device=n.device)
        listed = torch.empty_like(log_q)
        for site in range(n.shape[1]):
            children = self.tree.child[node]  # (B, d)
            listed[:, site] = self.tree.log_weight[children]
            node = children.gather(1, chosen[:, site, None])[:, 0]
        rest = self.log_rest + before[..., None] + log_q
        return torch.logaddexp(self.log_list + listed, rest).masked_fill(log_uniform.isneginf(), -torch.inf)
