"""Size and precision of transformers and determinants; `nqs.recipes.wavefunction` decides which kind of state it is.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.models import (
    ConvolutionalConfig,
    DeterminantConfig,
    GroupConvolutionalConfig,
    SlaterDeterminant,
    TransformerConfig,
)
from nqs.protocols import Hamiltonian, ReferencePhase
from nqs.recipes import convolutions, group_convolutions, peaked
from nqs.recipes.foreign import Foreign, own_options
from nqs.recipes.known_signs import Signs, has_nodes
from nqs.recipes.samplers import DISTINCT, EXHAUSTIVE_ROWS, MANY
from nqs.recipes.steps import EXACT_STEPS, STEPS, seconds
from nqs.runtime.options import check_fields
from nqs.symmetry.group import Symmetry

# Width of the network: more parameters than orbits keep the steps of exact sums linear to the end (32 has 18,000 of
# them: 440 orbits of eight bosons end at machine precision). Wider where exact sums have more rows than WIDE_ROWS, and
# for averages on a GPU: in equal time the 6x6 Heisenberg lattice ended with a V-score of 1.7e-4 at width 48 (8,000
# samples, 640 steps), and of 4.0e-4 at width 32 (12,000 samples and 600 steps, or 6,000 and 1,150).
WIDTH, WIDE, WIDE_ROWS = 32, 48, 16_000
# For averages on a CPU, where every sample costs many images, and where time is short. After 8 steps the Ising ring of
# 20 sites was at -24.859 and -24.980 with 8 and 16 (exact -25.491), in 17 and 23 CPU s (`python
# scripts/recipe_study.py --number model.NARROW --values 8 16 --problems ising-20 --steps 8`).
NARROW = 16
# Width before depth; one head a channel in factored attention. With 200 samples and 100 steps the Heisenberg ring of 14
# sites ended at 2.8e-4, 2.4e-4 and 1.6e-4 with one, two and three layers (16, 28 and 37 CPU s), at 2.9e-4, 2.5e-4,
# 2.4e-4 and 1.1e-4 with 1, 2, 4 and 8 heads (22, 24, 28 and 31 s), at 2.2e-4, 2.4e-4 and 2.3e-4 with ratios of 1, 2 and
# 4 (26, 28 and 36 s; one seed, errors of 5e-5 to 7e-5, so that no difference exceeds two errors of its own). Eight
# bosons on a ring, summed, were at 8.5e-8, 3.6e-10 and 3.6e-7 after 20 steps with 1, 4 and 8 heads. `python
# scripts/recipe_study.py --number model.HEADS --values 1 2 4 8 --problems heisenberg-14 --distinct 200 --sampled
# --steps 100`, and so on; `--problems bose-hubbard-8 --steps 20`.
LAYERS, HEADS, MLP_RATIO = 2, 4, 2
PARAMETERS = 17.5  # of such a network, in units of the width squared
# Fraction of the usual steps that must fit into a time limit, or the network is narrow. The spins above ended at 9.0e-5
# with the narrow network and all 100 steps (15 CPU s), at 4.5e-4 with the usual one and half of them (13 s), the bosons
# at 5.7e-10 and 3.6e-10 after 20 steps of the two (3.8 and 7.9 s; `--number model.WIDTH --values 16 32`).
LEAST_FRACTION = 0.5
# Initial phases on top of a reference, in large systems: Hubbard 3x4 with 5 + 5 electrons was at -7.0 before the first
# and below Hartree-Fock (-7.9) after five steps of 200 samples; with phases of order 1 at +5.1 and +3.5.
SMALL_PHASES = 0.1
# Backflow determinants, for sampled fermions with signs: size and number. Hubbard 3x4 with 5 + 5 electrons, U = 8,
# above the exact energy after 60 s of one core with 500 samples (errors 5e-4): 9.6e-3 and 1.3e-2 with one determinant
# (seeds), 9.6e-3 with two, 8.2e-3 with four, 1.5e-2 with one of each spin; in float32 5.4e-3 with four, 6.7e-3 with
# four and two layers, 1.2e-2 with twelve. Orbitals of restricted instead of unrestricted Hartree-Fock: 7.0e-3 with one,
# 5.5e-3 with four. In 75 s of one core the 4x4 lattice was at 4.3e-3, t-V 4x4 with 5 fermions, V = 10, in 60 s at
# 2.7e-4.
BACKFLOW_WIDTH, BACKFLOW_LAYERS, DETERMINANTS = {"cpu": 16, "cuda": 32}, {"cpu": 1, "cuda": 2}, {"cpu": 4, "cuda": 4}
# Initial corrections of the orbitals, whose entries are of order L^(-1/2): small against these, and not zero, so that
# all weights have a gradient. The optimum is flat: with 1e-3, 1e-2 and 1e-1 Hubbard 3x4 (5 + 5 electrons, U = 8) was
# 5.1e-2, 5.0e-2 and 5.3e-2 above after 40 steps (errors of 1e-3 to 2e-3; `python scripts/recipe_study.py --number
# model.CORRECTION --values 0.001 0.01 0.1 --problems hubbard-3x4 --steps 40`), t-V 4x4 with 5 fermions, V = 10, at
# 0.185, 0.173 and 0.181 (seed 0), 0.172, 0.178 and 0.181 (seed 1; `--problems tv-4x4 --network determinant --seeds 0
# 1`).
CORRECTION = 0.01

FOREIGN_TO_TRANSFORMERS = {"determinants": Foreign("a transformer has none; choose network='determinant'.")}
FOREIGN_TO_DETERMINANTS = {
    "attention": Foreign("the backflow of determinants has 'factored' attention.", only="factored"),
    "phase": Foreign("the signs of determinants are learned; choose a transformer.", only="learned"),
}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Requested options of the network; None: chosen by nqs.recipes from the problem and the device.

    Attributes:
        network: "transformer", autoregressive and sampled exactly; "determinant" for determinants with backflow, whose
            nodes are those of fermions, sampled by Markov chains; "convolutional" for a positive state of residual
            convolutions, "group-convolutional" for a complex one of convolutions over the space group, both sampled by
            Markov chains.
        determinants: their number.
        width: embedding width.
        layers: number of blocks.
        heads: attention heads; must divide width.
        attention: "dot-product" (queries and keys) or "factored" (weights by displacement on the lattice alone, as in
            the backflow of determinants).
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a state that is positive up to signs that are known exactly.
        dtype: "float64", "float32", or "mixed" (float64 amplitudes and energies, float32 natural gradient).
        seed: of the initial parameters.
    """

    network: Literal["transformer", "determinant", "convolutional", "group-convolutional"] | None = None
    determinants: int | None = None
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    attention: Literal["dot-product", "factored"] | None = None
    mlp_ratio: int | None = None
    phase: Literal["learned", "zero"] | None = None
    dtype: Literal["float64", "float32", "mixed"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _refuse_impossible(self.network, self.given)

    @property
    def given(self) -> dict[str, Any]:
        """The options of the network that are not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and name != "network"}


def _refuse_impossible(network: str | None, given: Mapping[str, Any]) -> None:
    """Raises ValueError: options that the network does not have, or impossible values; sizes not given as on a CPU."""
    if network == "convolutional":
        ConvolutionalConfig(**convolutions.options(given, "cpu"))
    elif network == "group-convolutional":
        trivial = Symmetry(permutations=((0,),), maps=((0, 1),), angles=(0.0,))
        GroupConvolutionalConfig(symmetry=trivial, **group_convolutions.options(given, "cpu"))
    elif network == "determinant":
        DeterminantConfig(**_options_of_determinants(given, "cpu"))
    else:
        given = dict(given)
        if network is None and "determinants" in given:  # determinants may be chosen
            DeterminantConfig(**_options_of_determinants({"determinants": given.pop("determinants")}, "cpu"))
        size = {"width": WIDTH, "layers": LAYERS, "mlp_ratio": MLP_RATIO}
        TransformerConfig(**(size | own_options(given, FOREIGN_TO_TRANSFORMERS)))


def _options_of_determinants(given: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Size, precision and seed as options of `DeterminantConfig`, those that are not given chosen.

    Raises:
        ValueError: options that determinants do not have.
    """
    kind = torch.device(device).type
    size = {"width": BACKFLOW_WIDTH[kind], "layers": BACKFLOW_LAYERS[kind], "determinants": DETERMINANTS[kind]}
    others = {"mlp_ratio": MLP_RATIO, "correction": CORRECTION, "dtype": "float32"}
    return size | others | own_options(given, FOREIGN_TO_DETERMINANTS)


def network(
    wishes: NetworkOptions,
    phase: Literal["learned", "zero"],
    terms: int,
    hilbert: HilbertSpace,
    device: torch.device | str,
    minutes: float | None = None,
    *,
    lattice: Lattice | None = None,
    averaged: bool = False,
    reference: ReferencePhase | None = None,
) -> TransformerConfig:
    """The network, fully resolved.

    Wide enough to follow every amplitude and phase of exact sums. Gradients may be rounded to float32, amplitudes not:
    the noise of their local energies would be fitted with large moves of the parameters where the diagonal shift is
    small. Where every sample costs many images, the network is narrow on a CPU, and in float32 as a whole: symmetric
    samples have more noise than that. It then has to guess most amplitudes from few samples, and attention by
    displacement, which learns once what holds everywhere on the lattice, guesses better: the 4x6 Heisenberg lattice
    ended at 3e-3 instead of 1.7e-2 (200 samples, 60 steps, width 16).

    Args:
        terms: configurations, or orbits, of the sector.
        minutes: time for the run; the network is narrow where half of the usual steps would not fit into it.
        lattice: of the sites, if they are on one.
        averaged: it is the base of an average over images.
        reference: the signs; in large systems a determinant also gives the amplitudes that learning starts from.
    """
    if reference is not None and peaked.is_list(reference):
        return peaked.transformer(wishes.given, phase, reference, device)
    large = averaged or terms > MANY[torch.device(device).type]
    attention = wishes.attention or ("factored" if averaged or (large and lattice is not None) else "dot-product")
    width = wishes.width or _width(phase, terms, hilbert.n_sites, device, minutes, averaged=averaged)
    chosen = TransformerConfig(
        width=width,
        layers=wishes.layers or LAYERS,
        heads=wishes.heads or (width if attention == "factored" else HEADS),
        attention=attention,
        mlp_ratio=wishes.mlp_ratio or MLP_RATIO,
        phase=phase,
        dtype=wishes.dtype or ("float32" if large else "mixed"),
        seed=wishes.seed,
        reference=reference,
        initial_phases=SMALL_PHASES if large and reference is not None else 1.0,
        start="reference" if large and isinstance(reference, SlaterDeterminant) else "uniform",
    )
    return on_lattice(chosen, lattice)


def determinant_reason(
    hamiltonian: Hamiltonian, wishes: NetworkOptions, known: Signs, terms: int, device: torch.device | str
) -> str:
    """Why the state is one of backflow determinants, one line; "" for a transformer.

    Fermions whose signs no rule gives, where the sector is too large for a sum: nodes need a determinant in the
    amplitude. Hubbard 3x4 with 5 + 5 electrons, U = 8: 5e-3 above the ground state after a minute of one core, where
    an autoregressive transformer with the signs of the same determinant and a phase head was 13 % above after 200 s.
    Where the signs of the mean field make nearly all hops negative, as in one dimension, no nodes are to be found.

    Args:
        terms: configurations, or orbits, of a sum.

    Raises:
        ValueError: determinants are wanted where there is no real mean field of fermions in fixed numbers.
    """
    found = known.real_determinant
    if wishes.network == "determinant":
        if found is None:
            raise ValueError(
                "network='determinant' needs the real orbitals of a mean field: lattice fermions with signs, in fixed "
                "numbers, without a twist, and reference='auto'; choose network='transformer'."
            )
        return "backflow determinants, as requested"
    wanted = wishes.network is None and wishes.attention != "dot-product" and known.computed
    if found is None or not wanted or terms <= EXHAUSTIVE_ROWS[torch.device(device).type]:
        return ""
    if not has_nodes(hamiltonian, found):
        return ""
    return "backflow determinants from Hartree-Fock orbitals: fermions with nodes, and a sector too large for a sum"


def determinants(
    wishes: NetworkOptions, orbitals: SlaterDeterminant, lattice: Lattice | None, device: torch.device | str
) -> DeterminantConfig:
    """Backflow determinants, fully resolved.

    In float32, with determinants in float64: local energies of Hubbard 3x4 (5 + 5 electrons, U = 8) changed by 6e-6 on
    average, 4e-5 at most, where they scatter by 1, and took two thirds of the time of float64.
    """
    classes = None if lattice is None else tuple(map(tuple, lattice.displacements().tolist()))
    chosen = _options_of_determinants(wishes.given, device)
    return DeterminantConfig(orbitals=orbitals, displacements=classes, **chosen)


def _width(
    phase: str, terms: int, n_sites: int, device: torch.device | str, minutes: float | None, *, averaged: bool
) -> int:
    kind, parts = torch.device(device).type, 2 if phase == "learned" else 1
    if averaged or terms > MANY[kind]:
        return NARROW if kind == "cpu" else WIDE
    exact = terms <= EXHAUSTIVE_ROWS[kind]
    width = WIDE if exact and parts * terms > WIDE_ROWS else WIDTH
    number, most = (terms, EXACT_STEPS[kind]) if exact else (DISTINCT[kind], STEPS[kind])
    needed = most * seconds(number, parts * number, int(PARAMETERS * width**2), n_sites, device)
    return NARROW if minutes is not None and LEAST_FRACTION * needed > 60 * minutes else width


def on_lattice(model: TransformerConfig, lattice: Lattice | None) -> TransformerConfig:
    """The model with the displacements of the lattice, where its attention depends on them and they are not given."""
    if model.attention != "factored" or model.displacements is not None or lattice is None:
        return model
    return replace(model, displacements=tuple(map(tuple, lattice.displacements().tolist())))


def network_of(model: Any) -> Any:
    """The network under a symmetry, or the model itself."""
    return getattr(model, "base", model)
