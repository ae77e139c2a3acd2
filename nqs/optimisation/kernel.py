"""The weighted, centred Jacobian X of nqs.optimisation, whole in memory or streamed.

    X = [ a (Re O - <Re O>) ; a (Im O - <Im O>) ],    R x P, with a factor a(n) for each configuration

and, where a metric of the parameters is given, a factor for each column.

A natural-gradient step needs X X^T or X^T X, or beyond some number of rows only |X|^2, and the products X v and X^T y.
Where X does not fit into memory:

- X X^T is summed over blocks of columns: the inputs and output gradients of some layers are stored for all
  configurations (of layers with few parameters their gradients), each column is computed from them once, with one
  forward and backward pass for every group of layers that fits into memory. For modules with unknown layers it is
  computed from pairs of row blocks; each of K blocks is computed (K + 1) / 2 times.
- X^T X is summed over blocks of rows, each computed once.
- X^T y is one backward pass; X v follows from the inputs and output gradients of all layers, without X. |X|^2 is summed
  over blocks of rows.

A million parameters at ten thousand configurations then cost gigabytes instead of a hundred.

Of several ranks each has the rows of its share of the configurations (nqs.optimisation.split_rows), centred with the
means over all.
"""

# Shapes: U configurations, P parameters, R rows: U without a phase to learn, else 2 U (real, then imaginary parts).
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, reduce
from itertools import islice
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Float64, Num, UInt8
from torch import Tensor, nn

from nqs.optimisation.jacobian import (
    Call,
    combined,
    directional,
    gradient_of,
    has_known_layers,
    layer_calls,
    n_parts,
    parameter_users,
    rounded_parameters,
    rows_with_gradients,
    scaled_jacobian,
    trainable_layers,
)
from nqs.optimisation.solver import SOLVER, Solver
from nqs.protocols import Wavefunction
from nqs.runtime.distributed import ALONE, Communicator
from nqs.runtime.memory import free_memory, in_chunks
from nqs.samples import Samples

CPU_BYTES, GPU_FRACTION = 2**31, 0.6  # memory of X and its factors; on a GPU a fraction of what the matrix leaves free
# Columns in one product: the longest float32 sum before it is added up in float64.
COLUMNS = 2**14
MADE_COLUMNS = 2**15  # columns per block: smaller blocks would spend most time on reading the layer inputs
# Row blocks of X X^T: more blocks skip more of the upper triangle, but tensor cores are slower on 1,000-row blocks.
BLOCKS, TENSOR_CORE_BLOCKS = 8, 4
COLUMN_COPIES = 3  # blocks in memory at once: the one being computed, narrow ones, their concatenation
PASS_COPIES = 2  # memory of a forward and backward pass relative to the inputs and output gradients of all layers

Precision = Literal["float64", "float32", "tf32"]


class CentredJacobian(Protocol):
    """X as a linear operator, dense or streamed."""

    shape: tuple[int, int]

    @property
    def is_dense(self) -> bool:
        """Whether products with X^T need no backward pass."""

    def gram(self) -> Float64[Tensor, "R R"]:
        """Lower triangle of X X^T; the upper one is undefined."""

    def metric(self) -> Float64[Tensor, "P P"]:
        """Lower triangle of X^T X; the upper one is undefined."""

    def squared_norm(self) -> Float64[Tensor, ""]:
        """|X|^2, the sum of the squares of all elements: the trace of both matrices."""

    def matvec(self, v: Float64[Tensor, " P"]) -> Float64[Tensor, " R"]:
        """X v."""

    def rmatvec(self, y: Float64[Tensor, " R"]) -> Float64[Tensor, " P"]:
        """X^T y."""


class Rows(NamedTuple):
    """Configurations with their weights."""

    configurations: UInt8[Tensor, "U L"]
    weights: Float64[Tensor, " U"]


class DenseJacobian:
    """X as a matrix.

    Args:
        precision: of its products; float32 rounding errors exceed diagonal shifts below 1e-5.
    """

    def __init__(self, X: Float[Tensor, "R P"], precision: Precision = "float64") -> None:
        self.precision: Precision = precision
        self.X = X.to(_dtype(precision))
        self.shape = (X.shape[0], X.shape[1])

    @property
    def is_dense(self) -> bool:
        return True

    def column_blocks(self) -> Iterator[Float[Tensor, "R p"]]:
        yield from self.X.split(MADE_COLUMNS, dim=1)

    def gram(self) -> Tensor:
        return self._squared(self.X)

    def metric(self) -> Tensor:
        return self._squared(self.X.T)

    def _squared(self, A: Float[Tensor, "n m"]) -> Float64[Tensor, "n n"]:
        gram = torch.zeros((len(A), len(A)), dtype=torch.float64, device=A.device)
        add_columns(gram, A, self.precision)
        return gram

    def squared_norm(self) -> Tensor:
        return squared_norm(self.X)

    def matvec(self, v: Tensor) -> Tensor:
        return (self.X @ v.to(self.X.dtype)).double()

    def rmatvec(self, y: Tensor) -> Tensor:
        return (self.X.T @ y.to(self.X.dtype)).double()


class LayerFactors(NamedTuple):
    """Factors of columns of X: input and output gradients of a layer call, or its parameter gradients if smaller."""

    layer: nn.Module
    names: tuple[str, ...]  # parameters whose gradients are stored; empty: input and output gradients are
    tensors: tuple[Num[Tensor, "U ..."], ...]  # gradients by name and part; or x and the output gradients of each part

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def gradient(self, name: str, part: int, outputs: slice) -> Float[Tensor, "U ..."]:
        """Gradient of some output rows of a parameter, for each configuration."""
        if self.names:
            parts = len(self.tensors) // len(self.names)
            return self.tensors[self.names.index(name) * parts + part][:, outputs]
        x, *gradients = self.tensors
        return gradient_of(self.layer, name, x, gradients[part][..., outputs])

    def like(self, rows: int) -> "LayerFactors":
        """Uninitialised tensors of the same kind for `rows` configurations."""
        return self._replace(tensors=tuple(tensor.new_empty((rows, *tensor.shape[1:])) for tensor in self.tensors))


def layer_factors(call: Call) -> LayerFactors:
    """The smaller of the two representations."""
    layer = call.layer
    trainable = {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    factors = (call.x, *call.gradients)
    numbers = len(call.x) * len(call.gradients) * sum(p.numel() for p in trainable.values())
    if numbers * call.gradients[0].itemsize >= sum(tensor.nbytes for tensor in factors):
        return LayerFactors(layer, (), factors)
    computed = (gradient_of(layer, name, call.x, g) for name in trainable for g in call.gradients)
    return LayerFactors(layer, tuple(trainable), tuple(computed))


class StreamedJacobian:
    """X in blocks that are computed on demand.

    Args:
        factor: a(n), positive where the weight is.
        memory: bytes for blocks, their factors and passes through the network; exceeded if one layer needs more.
        precision: of the products X X^T and X^T X.
        ranks: whose rows together have the weight 1; these rows, equally many on each, are the part of this one.
        columns: factor of each column; None for 1.
    """

    is_dense = False

    def __init__(
        self,
        wavefunction: Wavefunction,
        samples: "Samples | Rows",
        factor: Float64[Tensor, " U"],
        memory: int,
        precision: Precision = "float64",
        ranks: Communicator = ALONE,
        columns: Float64[Tensor, " P"] | None = None,
    ) -> None:
        self.wavefunction = wavefunction
        self.ranks, self.columns = ranks, columns
        self.configurations = samples.configurations
        self.weights = samples.weights
        self.factor = factor
        self.memory = memory
        self.precision: Precision = precision
        self.parts = n_parts(wavefunction)
        P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
        self.shape = (self.parts * len(factor), P)
        self.by_layers = has_known_layers(wavefunction)

    def gram(self) -> Tensor:
        R = self.shape[0]
        gram = torch.zeros((R, R), dtype=torch.float64, device=self.factor.device)
        if self.by_layers:
            for block in self.column_blocks():
                add_columns(gram, block, self.precision)
                del block  # before the next one is allocated
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

    def squared_norm(self) -> Tensor:
        return sum((squared_norm(block) for _, block in self.row_blocks()), start=self.factor.new_zeros(()))

    def matvec(self, v: Tensor) -> Tensor:
        if self.by_layers:
            v = v if self.columns is None else v * self.columns
            changes = directional(self.wavefunction, self.configurations, v)  # (parts, U)
            mean = self.ranks.sum(changes @ self.weights)
            return ((changes - mean[:, None]) * self.factor).flatten()
        result = v.new_empty(self.shape[0])
        for rows, block in self.row_blocks():
            result[rows] = block.double() @ v
        return result

    def rmatvec(self, y: Tensor) -> Tensor:
        scaled = y.view(self.parts, -1) * self.factor  # (parts, U)
        centred = scaled - self.ranks.sum(scaled.sum(1, keepdim=True)) * self.weights
        gradient = combined(self.wavefunction, self.configurations, centred)
        return gradient if self.columns is None else gradient * self.columns

    # ---- rows ----

    @cached_property
    def means(self) -> list[Float64[Tensor, " P"]]:
        """Weighted mean of the gradients of each part."""
        coefficients = torch.eye(self.parts, device=self.factor.device).double()[:, :, None] * self.weights
        return [self.ranks.sum(combined(self.wavefunction, self.configurations, c)) for c in coefficients]

    def row_blocks(self) -> Iterator[tuple[Tensor, Float[Tensor, "r P"]]]:
        """Row blocks of X with their row indices."""
        U, P = len(self.factor), self.shape[1]
        size = max(1, self.memory // (4 * 8 * self.parts * P))
        for index in torch.arange(U, device=self.factor.device).split(size):
            factor = self.factor[index]
            gradients = scaled_jacobian(self.wavefunction, self.configurations[index], factor)
            for part, mean in zip(gradients, self.means, strict=True):
                part.addr_(factor.to(part.dtype), mean.to(part.dtype), alpha=-1)
            if self.columns is not None:
                gradients.mul_(self.columns)
            rows = torch.cat([index + part * U for part in range(self.parts)])
            yield rows, gradients.flatten(0, 1).to(_dtype(self.precision))

    # ---- columns ----

    @cached_property
    def bytes_per_column(self) -> int:
        """With its copy in lower precision, if there is one."""
        return self.shape[0] * _bytes_of_number(self.wavefunction, self.precision)

    @cached_property
    def width(self) -> int:
        """Columns per block: with their copies at most half of the memory."""
        return max(1, min(MADE_COLUMNS, self.memory // (2 * COLUMN_COPIES * self.bytes_per_column)))

    @cached_property
    def calls_of_one(self) -> list[Call]:
        """Calls of all layers for a single configuration, in order."""
        parameters, layers = rounded_parameters(self.wavefunction), trainable_layers(self.wavefunction)
        return layer_calls(self.wavefunction, parameters, self.configurations[:1], self.factor[:1], layers)

    @cached_property
    def bytes_of_pass(self) -> int:
        """Memory of a forward and backward pass per configuration."""
        return PASS_COPIES * sum(tensor.nbytes for call in self.calls_of_one for tensor in (call.x, *call.gradients))

    @cached_property
    def rows_of_pass(self) -> int:
        """Configurations per pass: at most a quarter of the memory."""
        fit = self.ranks.smallest(rows_with_gradients(self.wavefunction, self.factor.device))
        return max(1, min(fit, len(self.factor), self.memory // (4 * self.bytes_of_pass)))

    @cached_property
    def memory_for_calls(self) -> int:
        """Memory for layer factors besides a pass or blocks of columns: at least half."""
        columns = COLUMN_COPIES * self.width * self.bytes_per_column
        return self.memory - min(self.memory // 2, max(columns, self.rows_of_pass * self.bytes_of_pass))

    def column_blocks(self) -> Iterator[Float[Tensor, "R p"]]:
        """Nonzero columns of X in blocks, in no particular order; the same ones on all ranks."""
        dtype, width = _dtype(self.precision), self.width
        if not self.by_layers:
            yield from self._columns_of_rows(width)
            return
        for layers in self.groups():
            narrow: list[Tensor] = []
            for block in self._columns_of(layers, width):
                if block.shape[1] > width // 2:
                    yield block.to(dtype)
                else:
                    narrow.append(block.to(dtype))
                del block
                if sum(part.shape[1] for part in narrow) > width // 2:
                    yield torch.cat(narrow, dim=1)
                    narrow.clear()
            if narrow:
                yield torch.cat(narrow, dim=1)

    def _columns_of_rows(self, width: int) -> Iterator[Float[Tensor, "R p"]]:
        """Of modules with unknown layers: all rows are computed for each block."""
        for first in range(0, self.shape[1], width):
            columns = slice(first, min(first + width, self.shape[1]))
            block = self.factor.new_empty((self.shape[0], columns.stop - first), dtype=_dtype(self.precision))
            for rows, part in self.row_blocks():
                block[rows] = part[:, columns]
            yield block

    def groups(self) -> list[list[nn.Module]]:
        """Groups of layers whose factors fit into memory together, last layers first.

        Layers that share a parameter stay together.
        """
        sizes: dict[nn.Module, int] = {}  # bytes for one configuration
        for call in self.calls_of_one:
            sizes[call.layer] = sizes.get(call.layer, 0) + layer_factors(call).nbytes
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
        """Columns of the parameters of some layers, about `width` at a time for weight matrices."""
        calls = self._collected(layers)
        for parameter, users in parameter_users([call.layer for call in calls]).items():
            outputs = parameter.shape[0]
            sliced = parameter.ndim == 2 and all(isinstance(calls[i].layer, nn.Linear) for i, _ in users)
            step = max(1, width * outputs // parameter.numel()) if sliced else outputs
            of_users = [(calls[i], name) for i, name in users]
            for first in range(0, outputs, step):
                rows = slice(first, first + step) if sliced else slice(None)
                block = self._centred(of_users, rows)
                yield block if self.columns is None else block.mul_(self.columns_of[parameter][rows].flatten())

    @cached_property
    def columns_of(self) -> dict[nn.Parameter, Float64[Tensor, "..."]]:
        """Factors of the columns of each parameter, in its shape."""
        assert self.columns is not None
        parameters = [p for p in self.wavefunction.parameters() if p.requires_grad]
        parts = self.columns.split([p.numel() for p in parameters])
        return {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}

    def _centred(self, of_users: list[tuple[LayerFactors, str]], outputs: slice) -> Float[Tensor, "R p"]:
        """Centred columns of one parameter from the calls that use it; the gradients are overwritten."""
        parts = []
        for part in range(self.parts):
            gradients = (call.gradient(name, part, outputs) for call, name in of_users)
            parts.append(centre(reduce(torch.add, gradients).flatten(1), self.weights, self.factor, self.ranks))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _collected(self, layers: list[nn.Module]) -> list[LayerFactors]:
        """Factors of the calls of some layers for all configurations, gradients times a(n).

        Allocated once and filled chunk by chunk: concatenation would need twice the memory and fragment that of a GPU.
        """
        parameters = rounded_parameters(self.wavefunction)
        whole = [layer_factors(call).like(len(self.factor)) for call in self.calls_of_one if call.layer in layers]

        def fill(index: Tensor) -> None:
            rows = slice(int(index[0]), int(index[-1]) + 1)
            calls = layer_calls(self.wavefunction, parameters, self.configurations[rows], self.factor[rows], layers)
            for target, call in zip(whole, calls, strict=True):
                for tensor, chunk in zip(target.tensors, layer_factors(call).tensors, strict=True):
                    tensor[rows] = chunk

        in_chunks(fill, torch.arange(len(self.factor)), self.rows_of_pass)
        return whole


def centred_jacobian(
    wavefunction: Wavefunction,
    samples: "Samples | Rows",
    factor: Float64[Tensor, " U"],
    memory: int | None = None,
    precision: Precision = "float64",
    ranks: Communicator = ALONE,
    columns: Float64[Tensor, " P"] | None = None,
    solver: Solver = SOLVER,
) -> "DenseJacobian | StreamedJacobian":
    """X with rows scaled by `factor`, columns by `columns`: a dense matrix if it fits into `memory`, else streamed.

    Args:
        memory: bytes; None: 2 GiB on a CPU, on a GPU 60 % of what the solution of the system leaves free.
        precision: of the products X X^T and X^T X.
        ranks: as in `StreamedJacobian`.
        solver: of the system, whose memory is set aside.
    """
    P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
    R = n_parts(wavefunction) * len(factor)
    if memory is None:
        device = factor.device
        needed = solver.bytes_needed(min(ranks.size * R, P))
        memory = int(GPU_FRACTION * max(0, free_memory(device) - needed)) if device.type == "cuda" else CPU_BYTES
    memory = ranks.smallest(memory)
    if _bytes_of_number(wavefunction, precision) * R * P > memory:
        return StreamedJacobian(wavefunction, samples, factor, memory, precision, ranks, columns)
    rows = scaled_jacobian(wavefunction, samples.configurations, factor)
    for part in rows:
        centre(part, samples.weights, factor, ranks)
    if columns is not None:
        rows.mul_(columns)
    return DenseJacobian(rows.flatten(0, 1), precision)


def centre(
    scaled: Float[Tensor, "U p"],
    weights: Float64[Tensor, " U"],
    factor: Float64[Tensor, " U"],
    ranks: Communicator = ALONE,
) -> Float[Tensor, "U p"]:
    """a O - a <O> from a O, in place, where <O> = sum w O = sum (w / a) (a O)."""
    coefficients = torch.where(factor > 0, weights / factor, 0.0).to(scaled.dtype)
    return scaled.addr_(factor.to(scaled.dtype), ranks.sum(coefficients @ scaled), alpha=-1)


def squared_norm(block: Float[Tensor, "..."]) -> Float64[Tensor, ""]:
    return torch.linalg.vector_norm(block, dtype=torch.float64).square()


# ---- products ------------------------------------------------------------------------------------------------------


def _dtype(precision: Precision) -> torch.dtype:
    return torch.float64 if precision == "float64" else torch.float32


def _bytes_of_number(wavefunction: Wavefunction, precision: Precision) -> int:
    """Bytes per element of X: the gradient, and its copy in the precision of the products."""
    gradient = next(iter(rounded_parameters(wavefunction).values())).dtype
    return gradient.itemsize + (_dtype(precision).itemsize if _dtype(precision) != gradient else 0)


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """With "tf32", float32 matrix products on a GPU round their factors to 10 bits and sum in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def add_columns(gram: Float64[Tensor, "n n"], A: Float[Tensor, "n m"], precision: Precision = "float64") -> None:
    """Add the lower triangle of A A^T, block by block of columns; the upper triangle is undefined."""
    for columns in A.split(COLUMNS, dim=1):
        add_gram(gram, columns, precision)


def add_gram(gram: Float64[Tensor, "n n"], A: Float[Tensor, "n m"], precision: Precision = "float64") -> None:
    """The same with one product per block of rows: little more than half the work of the full matrix."""
    blocks = TENSOR_CORE_BLOCKS if precision == "tf32" and A.is_cuda else BLOCKS
    with matrix_products(precision):
        for block in torch.arange(len(A)).chunk(blocks):
            first, last = int(block[0]), int(block[-1]) + 1
            gram[first:last, :last].add_(A[first:last] @ A[:last].T)
