"""The weighted, centred Jacobian X of nqs.optimisation, whole in memory or rebuilt piece by piece.

    X = [ a (Re O - <Re O>) ; a (Im O - <Im O>) ],    R x P, with a factor a(n) for each configuration

A natural-gradient step needs no more of X than X X^T or X^T X, X v and X^T y. Where X does not fit, its rows come in
pieces that are made again whenever they are needed: of K pieces each (K + 1) / 2 times for X X^T, and once for each
product. A million parameters at ten thousand configurations then cost gigabytes instead of a hundred.
"""

# Shapes: U configurations, P parameters, R rows: U without a phase to learn, else 2 U (real, then imaginary parts).
from typing import Protocol

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from nqs.jacobian import jacobian
from nqs.protocols import Wavefunction
from nqs.samples import Samples

BYTES = {"cpu": 2**31, "cuda": 2**33}  # of X in memory, and of the pieces of it


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
    """X as a matrix. Its products are made in float64: those in float32 round by more than the diagonal shift."""

    def __init__(self, X: Float[Tensor, "R P"]) -> None:
        self.X = X.double()
        self.shape = (X.shape[0], X.shape[1])

    def gram(self) -> Tensor:
        return lower_gram(self.X)

    def metric(self) -> Tensor:
        return lower_gram(self.X.T)

    def times(self, v: Tensor) -> Tensor:
        return self.X @ v

    def transposed(self, y: Tensor) -> Tensor:
        return self.X.T @ y


class Streamed:
    """X in pieces of `size` configurations, each rebuilt from the wavefunction when it is needed."""

    def __init__(self, wavefunction: Wavefunction, samples: Samples, factor: Float64[Tensor, " U"], size: int) -> None:
        self.wavefunction = wavefunction
        self.configurations = samples.configurations.split(size)
        self.factors = factor.split(size)
        parts = 2 if wavefunction.has_phase else 1
        P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
        U, device = samples.n_distinct, factor.device
        self.shape = (parts * U, P)
        starts = range(0, U, size)
        self.rows = [  # places of the real, then of the imaginary parts of each piece
            torch.cat([torch.arange(s, min(s + size, U), device=device) + part * U for part in range(parts)])
            for s in starts
        ]
        self.mean = [torch.zeros(P, dtype=torch.float64, device=device) for _ in range(parts)]
        for n, w in zip(self.configurations, samples.weights.split(size), strict=True):
            for mean, O in zip(self.mean, self._gradients(n), strict=True):
                mean += w @ O

    def piece(self, k: int) -> Float64[Tensor, "r P"]:
        """Rows self.rows[k] of X."""
        gradients = self._gradients(self.configurations[k])
        return torch.cat([(O - m) * self.factors[k][:, None] for O, m in zip(gradients, self.mean, strict=True)])

    def _gradients(self, n: UInt8[Tensor, "r L"]) -> list[Float64[Tensor, "r P"]]:
        """Of the log modulus, and of the phase if there is one to learn."""
        return [O.double() for O in jacobian(self.wavefunction, n) if O is not None]

    def gram(self) -> Tensor:
        gram = self.mean[0].new_zeros((self.shape[0], self.shape[0]))
        for i, rows in enumerate(self.rows):
            piece = self.piece(i)
            for j in range(i + 1):
                product = piece @ (piece if j == i else self.piece(j)).T
                gram[rows[:, None], self.rows[j]] = product
                gram[self.rows[j][:, None], rows] = product.T
        return gram

    def metric(self) -> Tensor:
        metric = self.mean[0].new_zeros((self.shape[1], self.shape[1]))
        for k in range(len(self.rows)):
            metric += lower_gram(self.piece(k).T)
        return metric

    def times(self, v: Tensor) -> Tensor:
        result = v.new_empty(self.shape[0])
        for k, rows in enumerate(self.rows):
            result[rows] = self.piece(k) @ v
        return result

    def transposed(self, y: Tensor) -> Tensor:
        result = y.new_zeros(self.shape[1])
        for k, rows in enumerate(self.rows):
            result += self.piece(k).T @ y[rows]
        return result


def tangent(
    wavefunction: Wavefunction, samples: Samples, factor: Float64[Tensor, " U"], bytes_in_memory: int | None = None
) -> Tangent:
    """X with rows scaled by `factor`, in memory if it has no more than so many bytes, else streamed in such pieces."""
    parts = 2 if wavefunction.has_phase else 1
    P = sum(p.numel() for p in wavefunction.parameters() if p.requires_grad)
    available = BYTES[factor.device.type] if bytes_in_memory is None else bytes_in_memory
    bytes_per_configuration = 8 * parts * P
    if samples.n_distinct * bytes_per_configuration <= available:
        return Dense(centred(*jacobian(wavefunction, samples.configurations), samples.weights, factor))
    return Streamed(wavefunction, samples, factor, max(1, available // (4 * bytes_per_configuration)))


def centred(
    log_modulus: Tensor, phase: Tensor | None, weights: Float64[Tensor, " U"], factor: Float64[Tensor, " U"]
) -> Float[Tensor, "R P"]:
    """X from the gradients of log modulus and phase."""

    def rows(O: Tensor) -> Tensor:
        return (O - weights.to(O.dtype) @ O).mul_(factor.to(O.dtype)[:, None])

    return rows(log_modulus) if phase is None else torch.cat([rows(log_modulus), rows(phase)])


def lower_gram(A: Tensor, blocks: int = 8) -> Float[Tensor, "rows rows"]:
    """Lower triangle of A A^T, block by block: half the work of the full product. The rest is not filled."""
    gram = A.new_zeros((len(A), len(A)))
    for block in torch.arange(len(A)).chunk(blocks):
        first, last = int(block[0]), int(block[-1]) + 1
        torch.mm(A[first:last], A[:last].T, out=gram[first:last, :last])
    return gram
