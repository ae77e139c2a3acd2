"""The weighted, centred Jacobian X of nqs.optimisation, whole in memory or streamed.

    X = [ a (Re O - <Re O>) ; a (Im O - <Im O>) ],    R x P, with a factor a(n) for each configuration

A natural-gradient step needs no more of X than X X^T or X^T X, X v and X^T y. Where X does not fit into memory:

- X X^T grows by blocks of columns: the inputs and output gradients of some layers are kept for all configurations, each
  column is made from them once, and a forward and backward pass is needed for every group of layers that fits. For
  modules with other than the known layers it is made from pairs of blocks of rows, of K blocks each made (K + 1) / 2
  times.
- X^T X grows by blocks of rows, each made once.
- X^T y is one backward pass; X v follows from the inputs and output gradients of all layers, without X.

A million parameters at ten thousand configurations then cost gigabytes instead of a hundred.
"""

# Shapes: U configurations, P parameters, R rows: U without a phase to learn, else 2 U (real, then imaginary parts).
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, reduce
from itertools import islice
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from nqs.chunks import in_pieces
from nqs.jacobian import (
    GRADIENTS,
    Call,
    combined,
    directional,
    has_known_layers,
    layer_calls,
    n_parts,
    rounded_parameters,
    rows_with_gradients,
    scaled_jacobian,
    trainable_layers,
    uses,
)
from nqs.protocols import Wavefunction
from nqs.samples import Samples

CPU_BYTES, GPU_SHARE = 2**31, 0.4  # of X and what it is made from; on a GPU of its free memory
# Columns in one product: sums of float32 are not longer than this before they are added up in float64.
COLUMNS = 2**14
MADE_COLUMNS = 2**15  # at once: of the outer products of few outputs most time would go into reading the inputs

Precision = Literal["float64", "float32", "tf32"]


class Tangent(Protocol):
    """X, without saying where its rows are."""

    shape: tuple[int, int]

    def gram(self) -> Float64[Tensor, "R R"]:
        """Lower triangle of X X^T; what is above it is not defined."""

    def metric(self) -> Float64[Tensor, "P P"]:
        """Lower triangle of X^T X; what is above it is not defined."""

    def times(self, v: Float64[Tensor, " P"]) -> Float64[Tensor, " R"]:
        """X v."""

    def transposed(self, y: Float64[Tensor, " R"]) -> Float64[Tensor, " P"]:
        """X^T y."""


class Dense:
    """X as a matrix.

    Args:
        precision: of its products. Those in float32 round by more than a diagonal shift below 1e-5.
    """

    def __init__(self, X: Float[Tensor, "R P"], precision: Precision = "float64") -> None:
        self.precision: Precision = precision
        self.X = X.to(_dtype(precision))
        self.shape = (X.shape[0], X.shape[1])

    def gram(self) -> Tensor:
        return self._squared(self.X)

    def metric(self) -> Tensor:
        return self._squared(self.X.T)

    def _squared(self, A: Float[Tensor, "n m"]) -> Float64[Tensor, "n n"]:
        gram = torch.zeros((len(A), len(A)), dtype=torch.float64, device=A.device)
        for columns in A.split(COLUMNS, dim=1):
            add_gram(gram, columns, self.precision)
        return gram

    def times(self, v: Tensor) -> Tensor:
        return (self.X @ v.to(self.X.dtype)).double()

    def transposed(self, y: Tensor) -> Tensor:
        return (self.X.T @ y.to(self.X.dtype)).double()


class Streamed:
    """X in blocks that are made when they are needed.

    Args:
        factor: a(n), positive where the weight is.
        memory: bytes of blocks and of what they are made from; more where a single layer needs more.
        precision: of the products X X^T and X^T X.
    """

    def __init__(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        factor: Float64[Tensor, " U"],
        memory: int,
        precision: Precision = "float64",
    ) -> None:
        self.wavefunction = wavefunction
        self.configurations = samples.configurations
        self.weights = samples.weights
        self.factor = factor
        self.memory = memory
        self.precision: Precision = precision
        self.parts = n_parts(wavefunction)
        P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
        self.shape = (self.parts * samples.n_distinct, P)
        self.by_layers = has_known_layers(wavefunction)

    def gram(self) -> Tensor:
        R = self.shape[0]
        gram = torch.zeros((R, R), dtype=torch.float64, device=self.factor.device)
        if self.by_layers:
            for block in self.column_blocks():
                for columns in block.split(COLUMNS, dim=1):
                    add_gram(gram, columns, self.precision)
            return gram
        for i, (rows, block) in enumerate(self.row_blocks()):
            for others, other in islice(self.row_blocks(), i):
                with matrix_products(self.precision):
                    product = block @ other.T
                gram[rows[:, None], others] = product.double()
                gram[others[:, None], rows] = product.T.double()
            with matrix_products(self.precision):
                gram[rows[:, None], rows] = (block @ block.T).double()
        return gram

    def metric(self) -> Tensor:
        P = self.shape[1]
        metric = torch.zeros((P, P), dtype=torch.float64, device=self.factor.device)
        for _, block in self.row_blocks():
            add_gram(metric, block.T, self.precision)
        return metric

    def times(self, v: Tensor) -> Tensor:
        if self.by_layers:
            changes = directional(self.wavefunction, self.configurations, v)  # (parts, U)
            return ((changes - (changes @ self.weights)[:, None]) * self.factor).flatten()
        result = v.new_empty(self.shape[0])
        for rows, block in self.row_blocks():
            result[rows] = block.double() @ v
        return result

    def transposed(self, y: Tensor) -> Tensor:
        scaled = y.view(self.parts, -1) * self.factor  # (parts, U)
        centred = scaled - scaled.sum(1, keepdim=True) * self.weights
        return combined(self.wavefunction, self.configurations, centred)

    # ---- rows ----

    @cached_property
    def means(self) -> list[Float64[Tensor, " P"]]:
        """Of the gradients of each part."""
        coefficients = torch.eye(self.parts, device=self.factor.device).double()[:, :, None] * self.weights
        return [combined(self.wavefunction, self.configurations, c) for c in coefficients]

    def row_blocks(self) -> Iterator[tuple[Tensor, Float[Tensor, "r P"]]]:
        """All rows of X, and where they belong."""
        U, P = len(self.factor), self.shape[1]
        size = max(1, self.memory // (4 * 8 * self.parts * P))
        for index in torch.arange(U, device=self.factor.device).split(size):
            factor = self.factor[index]
            gradients = scaled_jacobian(self.wavefunction, self.configurations[index], factor)
            for part, mean in zip(gradients, self.means, strict=True):
                part.addr_(factor.to(part.dtype), mean.to(part.dtype), alpha=-1)
            rows = torch.cat([index + part * U for part in range(self.parts)])
            yield rows, gradients.flatten(0, 1).to(_dtype(self.precision))

    # ---- columns ----

    @cached_property
    def bytes_per_column(self) -> int:
        """With its rounded copy, if there is one."""
        return self.shape[0] * _bytes_of_number(self.wavefunction, self.precision)

    @property
    def width(self) -> int:
        """Columns made at once: they take at most a quarter of the memory."""
        return max(1, min(MADE_COLUMNS, self.memory // (4 * self.bytes_per_column)))

    @property
    def memory_for_calls(self) -> int:
        """What blocks of columns and their intermediate copies leave, but at least half."""
        return max(self.memory // 2, self.memory - 4 * self.width * self.bytes_per_column)

    def column_blocks(self) -> Iterator[Float[Tensor, "R p"]]:
        """All columns of X that are not zero, in blocks, layers in no particular order."""
        dtype, width = _dtype(self.precision), self.width
        narrow: list[Tensor] = []
        for layers in self.groups():
            for block in self._columns_of(layers, width):
                narrow.append(block.to(dtype))
                if sum(part.shape[1] for part in narrow) > width // 2:
                    yield narrow[0] if len(narrow) == 1 else torch.cat(narrow, dim=1)
                    narrow = []
        if narrow:
            yield torch.cat(narrow, dim=1)

    def groups(self) -> list[list[nn.Module]]:
        """Layers whose inputs and output gradients fit into memory together, last layers first.

        Layers that share a parameter stay together.
        """
        wavefunction = self.wavefunction
        sizes: dict[nn.Module, int] = {}  # bytes for one configuration
        one = self.configurations[:1]
        parameters, layers = rounded_parameters(wavefunction), trainable_layers(wavefunction)
        for call in layer_calls(wavefunction, parameters, one, self.factor[:1], layers):
            sizes[call.layer] = sizes.get(call.layer, 0) + sum(x.nbytes for x in (call.x, *call.gradients))
        families: list[list[nn.Module]] = []
        for layer in sizes:
            own = set(layer.parameters(recurse=False))
            related = [f for f in families if any(p in own for m in f for p in m.parameters(recurse=False))]
            families = [f for f in families if f not in related]
            families.append([*(m for f in related for m in f), layer])
        groups: list[list[nn.Module]] = []
        free = 0
        for family in reversed(families):
            size = len(self.factor) * sum(sizes[layer] for layer in family)
            if size > free:
                groups.append([])
                free = self.memory_for_calls
            groups[-1] += family
            free -= size
        return groups

    def _columns_of(self, layers: list[nn.Module], width: int) -> Iterator[Float[Tensor, "R p"]]:
        """Columns of the parameters of some layers, of a weight matrix about `width` at a time."""
        calls = self._scaled_calls(layers)
        for parameter, users in uses([call.layer for call in calls]).items():
            outputs = parameter.shape[0]
            sliced = parameter.ndim == 2 and all(isinstance(calls[i].layer, nn.Linear) for i, _ in users)
            step = max(1, width * outputs // parameter.numel()) if sliced else outputs
            for first in range(0, outputs, step):
                rows = slice(first, first + step) if sliced else slice(None)
                parts = []
                for part in range(self.parts):
                    of_users = [
                        GRADIENTS[type(layer)][name](layer, x, gradients[part][..., rows])
                        for (layer, x, gradients), name in ((calls[i], name) for i, name in users)
                    ]
                    parts.append(centre(reduce(torch.add, of_users).flatten(1), self.weights, self.factor))
                yield parts[0] if len(parts) == 1 else torch.cat(parts)

    def _scaled_calls(self, layers: list[nn.Module]) -> list[Call]:
        """The calls of some layers for all configurations, gradients times a(n)."""
        parameters = rounded_parameters(self.wavefunction)

        def scaled(index: Tensor) -> list[Call]:
            part = slice(int(index[0]), int(index[-1]) + 1)
            return layer_calls(self.wavefunction, parameters, self.configurations[part], self.factor[part], layers)

        U, device = len(self.factor), self.factor.device
        pieces = in_pieces(scaled, torch.arange(U), rows_with_gradients(self.wavefunction, device))
        whole: list[Call] = []
        while pieces[0]:  # one call after another, so that never two copies of all exist
            calls = [piece.pop(0) for piece in pieces]
            gradients = zip(*(call.gradients for call in calls), strict=True)
            whole.append(Call(calls[0].layer, torch.cat([c.x for c in calls]), tuple(map(torch.cat, gradients))))
        return whole


def tangent(
    wavefunction: Wavefunction,
    samples: Samples,
    factor: Float64[Tensor, " U"],
    memory: int | None = None,
    precision: Precision = "float64",
) -> Tangent:
    """X with rows scaled by `factor`: as a matrix if that takes no more than so many bytes, else streamed in as many.

    Args:
        memory: bytes; None: 2 GiB on a CPU, on a GPU a share of what is free.
        precision: of the products X X^T and X^T X.
    """
    if memory is None:
        device = factor.device
        memory = int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else CPU_BYTES
    P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
    size = _bytes_of_number(wavefunction, precision)
    if size * n_parts(wavefunction) * samples.n_distinct * P > memory:
        return Streamed(wavefunction, samples, factor, memory, precision)
    rows = scaled_jacobian(wavefunction, samples.configurations, factor)
    for part in rows:
        centre(part, samples.weights, factor)
    return Dense(rows.flatten(0, 1), precision)


def centre(
    scaled: Float[Tensor, "U p"], weights: Float64[Tensor, " U"], factor: Float64[Tensor, " U"]
) -> Float[Tensor, "U p"]:
    """a O - a <O> from a O, in place, where <O> = sum w O = sum (w / a) (a O)."""
    share = torch.where(factor > 0, weights / factor, 0.0).to(scaled.dtype)
    return scaled.addr_(factor.to(scaled.dtype), share @ scaled, alpha=-1)


# ---- products ------------------------------------------------------------------------------------------------------


def _dtype(precision: Precision) -> torch.dtype:
    return torch.float64 if precision == "float64" else torch.float32


def _bytes_of_number(wavefunction: Wavefunction, precision: Precision) -> int:
    """While X is made: of the gradient, and of the same rounded for the products."""
    gradient = next(iter(rounded_parameters(wavefunction).values())).dtype
    return gradient.itemsize + (_dtype(precision).itemsize if _dtype(precision) != gradient else 0)


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """Where "tf32", products of float32 matrices on a GPU round their factors to 10 bits; their sums are float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def add_gram(
    gram: Float64[Tensor, "n n"], A: Float[Tensor, "n m"], precision: Precision = "float64", blocks: int = 8
) -> None:
    """Adds the lower triangle of A A^T block by block: half the work of the full product. The rest is not filled."""
    with matrix_products(precision):
        for block in torch.arange(len(A)).chunk(blocks):
            first, last = int(block[0]), int(block[-1]) + 1
            gram[first:last, :last].add_(A[first:last] @ A[:last].T)
