r"""Determinants with backflow: fermions whose orbitals depend on where all the others are.

    psi(n) = exp(J(n)) sum_k det A_k(n),    A_k(n)_{a m} = phi_k(a, m) + c_k(a, m; n),    a = occupied orbitals of n,

with rows a in Jordan-Wigner order (all up electrons in the order of the sites, then all down), one-particle orbitals
phi_k, and corrections c_k and a Jastrow factor J from a network: a transformer reads the local state of every site,
each site attends to all others, and what it has found at an occupied site is mapped linearly to the rows of that site.
Nodes are in the amplitude, where the network need not learn signs: at its start, from the orbitals of a Hartree-Fock
determinant and small corrections, it has the nodes and the energy of that determinant.

Backflow in determinants of lattice fermions: Luo and Clark, Phys. Rev. Lett. 122, 226401 (2019), arXiv:1807.10770;
hidden fermions are backflow of low rank: Robledo Moreno et al., PNAS 119, e2122059119 (2022), arXiv:2111.10420; Liu and
Clark, Phys. Rev. B 110, 115124 (2024), arXiv:2311.09450; from a transformer: Gu et al., arXiv:2507.02644. Attention by
displacement: nqs.models.factored_attention.
"""

# Shapes: B configurations, L sites, D width, S species (up, down), N particles (of one species in the layers below,
# of all in a determinant), K determinants, M orbitals of a determinant.
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.encoder import Encoder
from nqs.models.finite_log import finite_log
from nqs.models.references.determinant import SlaterDeterminant
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class DeterminantConfig:
    """Orbitals, size, precision and seed.

    Sizes have no defaults: `nqs.ground_state` chooses them for each problem, and `nqs.recipes.NetworkOptions` changes
    single ones.

    Attributes:
        orbitals: real orbitals that learning starts from, such as those of `hartree_fock`; None: random ones.
        determinants: number of determinants K.
        spins: "together": one determinant of all electrons, whose orbitals mix up and down where the network finds it
            useful; "apart": a product of one for each spin.
        width: embedding width D; 0 for a determinant without backflow, whose orbitals are learned.
        layers: number of blocks.
        heads: attention heads, weights by position; must divide the width. None: one per channel.
        displacements: class of every pair of sites, L x L, as `Lattice.displacements`: pairs of one class share
            weights. None: every pair is a class of its own.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        correction: typical size of the initial corrections of the orbitals, whose entries are of order L^(-1/2).
        dtype: precision of the network; determinants are always formed in float64. "mixed" is float64 for samples and
            energies and float32 for the natural gradient.
        seed: of the initial parameters.

    Raises:
        TypeError: a size is missing.
        ValueError: a value that is not allowed, or complex orbitals.
    """

    orbitals: SlaterDeterminant | None = None
    determinants: int = 1
    spins: Literal["together", "apart"] = "together"
    width: int
    layers: int
    heads: int | None = None
    displacements: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: int = 2
    correction: float
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = {"determinants": 1, "width": 0, "layers": 1, "mlp_ratio": 1, "n_heads": 1}
        check_fields(self, positive=("correction",), at_least=sizes)
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.n_heads}; choose a multiple.")
        if self.orbitals is not None and self.orbitals.up_imaginary is not None:
            raise ValueError(
                "orbitals: these are complex, and backflow determinants are real: leave out twists of the boundary, or "
                "choose a TransformerConfig."
            )

    @property
    def n_heads(self) -> int:
        """Number of attention heads, with the default resolved."""
        return max(1, self.width) if self.heads is None else self.heads

    @property
    def summary(self) -> str:
        layers = f"{self.layers} layer{'s' * (self.layers > 1)}"
        number = f"{self.determinants} determinant{'s' * (self.determinants > 1)}"
        return f"{number}, backflow of width {self.width}, {layers}, {self.dtype}"

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Determinant":
        return Determinant(hilbert, self, device=device)


class Determinant(Wavefunction):
    """Backflow determinants of a sector with fixed numbers of fermions.

    Args:
        hilbert: the sector, of `fermions`, `spinful_fermions` or `electrons` with fixed numbers.
        config: orbitals, size and seed; keyword options override single fields, or are all of them without it.
        device: where the parameters live.

    Raises:
        ValueError: other particles than fermions, numbers that are not fixed, or orbitals of another sector.
    """

    config: DeterminantConfig
    has_phase = True
    is_real = True
    normalised = False
    rowwise_layers = True
    occupation: Tensor  # (S, d), of each local state
    wanted: Tensor  # (S, 1), numbers of fermions

    def __init__(
        self,
        hilbert: HilbertSpace,
        config: DeterminantConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config = DeterminantConfig(**options) if config is None else replace(config, **options)
        self.numbers = numbers_of_fermions(hilbert)
        L, D, K = hilbert.n_sites, config.width, config.determinants
        together = config.spins == "together"
        orbitals = [sum(self.numbers) if together else number for number in self.numbers]  # M, for rows of each species
        tables = [hilbert.table(species.occupation)[0] for species in hilbert.of_kind("fermion")]
        self.register_buffer("occupation", torch.tensor(np.array(tables)).bool(), persistent=False)
        self.register_buffer("wanted", torch.tensor(self.numbers)[:, None], persistent=False)
        with torch.random.fork_rng(devices=[]), float32_by_default():
            self.orbitals = cast(list[nn.Embedding], nn.ModuleList(nn.Embedding(L, K * M) for M in orbitals))
            self.encoder = None
            if D:
                self.encoder = Encoder(
                    hilbert.local_dim, L, width=D, layers=config.layers, heads=config.n_heads,
                    mlp_ratio=config.mlp_ratio, classes=config.displacements,
                )  # fmt: skip
                self.heads = cast(list[nn.Linear], nn.ModuleList(nn.Linear(D, K * M, bias=False) for M in orbitals))
                self.jastrow = nn.Linear(D, 1, bias=False)
        self.to(torch.float64)
        self._initialise()
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Orbitals as given, corrections small."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed)
        if self.encoder is not None:
            self.encoder.initialise(generator)
            for weight in (head.weight for head in (*self.heads, self.jastrow)):
                weight.normal_(0.0, config.correction / config.width**0.5, generator=generator)
        for embedding, start in zip(self.orbitals, self._starting_orbitals(generator), strict=True):
            embedding.weight.copy_(start.repeat(1, config.determinants))

    def _starting_orbitals(self, generator: torch.Generator) -> list[Float64[Tensor, "L M"]]:
        """Rows of each species, with the orbitals of the other one zero where a determinant holds both."""
        L, numbers = self.hilbert.n_sites, self.numbers
        if self.config.orbitals is None:
            drawn = [torch.randn(L, N, dtype=torch.float64, generator=generator) for N in numbers]
            found = [torch.linalg.qr(one)[0] if one.shape[1] else one for one in drawn]
        else:
            found = self.config.orbitals.orbitals()
            shapes = [tuple(one.shape) for one in found]
            if shapes != [(L, N) for N in numbers]:
                raise ValueError(
                    f"the orbitals are matrices of {' and '.join(map(str, shapes))} numbers (sites, particles), but "
                    f"the sector has {L} sites and {' and '.join(map(str, numbers))} fermions: take those of the same "
                    "Hamiltonian."
                )
        if self.config.spins == "apart":
            return found
        ends = np.cumsum([0, *numbers])
        return [
            nn.functional.pad(one, (int(first), int(ends[-1] - last)))
            for one, first, last in zip(found, ends, ends[1:], strict=False)
        ]

    # --- amplitudes -------------------------------------------------------------------------------------------------

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        B, K = len(n), self.config.determinants
        occupied: Bool[Tensor, "S B L"] = self.occupation[:, n.long()]
        inside = (occupied.sum(2) == self.wanted).all(0)
        features = None if self.encoder is None else self.encoder(n.long())
        rows: list[Float[Tensor, "B N KM"]] = []
        for species, number in enumerate(self.numbers):
            sites = occupied_sites(occupied[species], number)
            row = self.orbitals[species](sites)
            if features is not None:
                found = features.gather(1, sites[..., None].expand(-1, -1, features.shape[-1]))
                row = row + self.heads[species](found)
            rows.append(row)
        matrices = [torch.cat(rows, dim=1)] if self.config.spins == "together" else rows
        logs = torch.zeros((B, K), dtype=torch.float64, device=n.device)
        signs = torch.ones_like(logs)
        for matrix in matrices:
            sign, log = signed_log_determinants(matrix.double().view(B, matrix.shape[1], K, -1).transpose(1, 2))
            signs, logs = sign * signs, logs + log
        log_modulus, sign = signed_logsumexp(logs, signs)
        if features is not None:
            log_modulus = log_modulus + self.jastrow(features).double().sum((1, 2))
        return LogPsi(log_modulus.masked_fill(~inside, -math.inf), math.pi * (sign < 0).double())

    def initial_configurations(self, number: int, generator: torch.Generator) -> UInt8[Tensor, "B L"]:
        """Drawn from the determinant that learning starts from, where there is one."""
        bits = torch.tensor(
            [[d >> species & 1 for d in range(self.hilbert.local_dim)] for species in range(len(self.numbers))]
        )
        if self.config.orbitals is None or not torch.equal(self.occupation.cpu(), bits.bool()):
            return super().initial_configurations(number, generator)
        start = self.config.orbitals.conditionals(self.hilbert.local_dim).to(generator.device)
        return start.draw(self.hilbert, number, generator)

    @property
    def bytes_per_configuration(self) -> int:
        N, L = sum(self.numbers), self.hilbert.n_sites
        network = 0 if self.encoder is None else self.encoder.bytes_per_configuration(L)
        return network + 3 * 8 * self.config.determinants * N * N + 32 * L  # matrices, their factors; places


def numbers_of_fermions(hilbert: HilbertSpace) -> tuple[int, ...]:
    """Number of particles of every species of fermions.

    Raises:
        ValueError: other particles, or numbers that the sector does not fix.
    """
    numbers = [hilbert.number_of(species) for species in hilbert.species]
    kinds = {species.kind for species in hilbert.species}
    if kinds != {"fermion"} or None in numbers or hilbert.sites_differ:
        raise ValueError(
            f"a determinant needs fermions in fixed numbers, the same local states on all sites; the sector is "
            f"{hilbert}: give n_up and n_down, or n_particles, or choose a TransformerConfig."
        )
    return tuple(cast(Sequence[int], numbers))


def occupied_sites(occupied: Bool[Tensor, "B L"], number: int) -> Int64[Tensor, "B N"]:
    """The first `number` occupied sites of each configuration, in order, without a host synchronisation."""
    place = torch.where(occupied, (occupied.cumsum(1) - 1).clamp(max=number), number)
    sites = torch.arange(occupied.shape[1], device=occupied.device).expand(occupied.shape)
    empty = torch.zeros_like(place[:, :1]).expand(-1, number + 1)  # the last column takes what is not wanted
    return empty.scatter(1, place, sites)[:, :number]


def signed_log_determinants(
    matrices: Float64[Tensor, "B K N N"],
) -> tuple[Float64[Tensor, "B K"], Float64[Tensor, "B K"]]:
    """Sign and log|det|; singular matrices have -inf with the gradient 0, not nan: their amplitudes have no weight."""
    if not torch.is_grad_enabled():
        signs, logs = torch.linalg.slogdet(matrices)
        return signs, logs
    singular = torch.linalg.slogdet(matrices.detach())[1] == -math.inf
    one = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    signs, logs = torch.linalg.slogdet(torch.where(singular[..., None, None], one, matrices))
    return signs, logs.masked_fill(singular, -math.inf)


def signed_logsumexp(
    logs: Float64[Tensor, "B K"], signs: Float64[Tensor, "B K"]
) -> tuple[Float64[Tensor, " B"], Float64[Tensor, " B"]]:
    """log|x| and sign of x = sum_k signs_k exp(logs_k)."""
    if logs.shape[1] == 1:
        return logs[:, 0], signs[:, 0]
    largest = logs.detach().amax(1, keepdim=True).clamp(min=-1e300)
    total = (signs * (logs - largest).exp()).sum(1)
    return finite_log(total.abs()) + largest[:, 0], total.sign()
