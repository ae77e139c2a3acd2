"""The wavefunction: size and precision of the network, what is known of the signs of the ground state.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch

from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.estimate import with_decimals
from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.models import ListedState, MarshallSign, SlaterDeterminant, TransformerConfig, hartree_fock
from nqs.protocols import Hamiltonian, ReferencePhase, is_stoquastic, marshall_exact, marshall_sublattice, peak_of
from nqs.recipes import peaked
from nqs.recipes.samplers import DISTINCT, EXHAUSTIVE_ROWS, MANY
from nqs.recipes.steps import EXACT_STEPS, STEPS, seconds

# Width of the network: more parameters than orbits keep the steps of exact sums linear to the end (32 has 18,000 of
# them, 440 orbits of eight bosons end at 3.4e-13). Wider where exact sums have more rows than WIDE_ROWS, and for
# averages on a GPU: in equal time the 6x6 Heisenberg lattice ended with a V-score of 1.7e-4 at width 48 (8,000 samples,
# 640 steps), and of 4.0e-4 at width 32 (12,000 samples and 600 steps, or 6,000 and 1,150).
WIDTH, WIDE, WIDE_ROWS = 32, 48, 16_000
NARROW = 16  # for averages on a CPU, where every sample costs many images, and where time is short
LAYERS, HEADS, MLP_RATIO = 2, 4, 2  # width before depth; one head a channel in factored attention
PARAMETERS = 17.5  # of such a network, in units of the width squared
LEAST_FRACTION = 0.5  # of the usual steps that must fit into a time limit, or the network is narrow
# Initial phases on top of a reference, in large systems: Hubbard 3x4 with 5 + 5 electrons was at -7.0 before the first
# and below Hartree-Fock (-7.9) after five steps of 200 samples; with phases of order 1 at +5.1 and +3.5.
SMALL_PHASES = 0.1
OPEN_SHELL = 1e-9  # gap of a mean field, in units of the energy scale
PROBES = 64  # random configurations whose matrix elements show whether a sign rule fits


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Requested options of the transformer; None: chosen by nqs.recipes from the problem and the device.

    Attributes:
        width: embedding width.
        layers: number of blocks.
        heads: attention heads; must divide width.
        attention: "dot-product" (queries and keys) or "factored" (weights by displacement on the lattice alone).
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a state that is positive up to signs that are known exactly.
        dtype: "float64", "float32", or "mixed" (float64 amplitudes and energies, float32 natural gradient).
        seed: of the initial parameters.
    """

    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    attention: Literal["dot-product", "factored"] | None = None
    mlp_ratio: int | None = None
    phase: Literal["learned", "zero"] | None = None
    dtype: Literal["float64", "float32", "mixed"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        TransformerConfig(**self.given)  # refuses impossible values

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


# ------------------------------------------------------------------------------------------------------------- signs


class Signs(NamedTuple):
    """Known signs of a ground state.

    Attributes:
        phase: "zero" if no phase is learned.
        reference: a fixed phase of each configuration.
        why: one line.
        mean_field: a mean field was solved for.
    """

    phase: Literal["learned", "zero"]
    reference: ReferencePhase | None
    why: str
    mean_field: bool = False


def signs(
    hamiltonian: Hamiltonian,
    reference: Literal["auto", "none"] | ReferencePhase = "auto",
    phase: Literal["learned", "zero"] | None = None,
    *,
    unit: str = "J",
) -> Signs:
    """What gives the signs of the ground state; decided from the Hamiltonian's contract and its matrix elements.

    - peaked (`peak`): the signs of a list of selected configurations, and a phase head learns the rest;
    - stoquastic (`is_stoquastic`): none are needed;
    - `marshall_exact` true: Marshall's rule alone; false, and the rule turns more of the exchange negative than it
      turns positive (bipartite antiferromagnets with frustration): Marshall's rule, and a phase head learns the rest;
    - fermions that Hartree-Fock can treat: the signs of its determinant, and a phase head learns the rest (the
      determinant has them right on 98 to 99.5 % of the weight of the half-filled 2x4 Hubbard lattice);
    - else a phase head learns all of them.

    Args:
        reference: "none": a phase head learns all signs; or a reference phase, whose rest a phase head learns.
        phase: "learned" adds a phase head where none is needed; "zero" refuses one.
        unit: of the mean-field energy, for the line that is shown.

    Raises:
        ValueError: phase="zero" where no rule gives the exact signs.
    """
    found = _signs(hamiltonian, reference, phase, unit)
    if phase == "zero" and found.phase != "zero":
        raise ValueError(
            "no rule gives the exact signs of this ground state: add --model.phase learned, or leave the phase open."
        )
    return found if phase is None else found._replace(phase=phase)


def _signs(hamiltonian: Hamiltonian, reference: Any, phase: str | None, unit: str) -> Signs:
    if reference == "auto" and phase != "zero" and peak_of(hamiltonian) is not None:
        return Signs("learned", *peaked.listed(hamiltonian, unit), True)
    stoquastic = is_stoquastic(hamiltonian)
    if stoquastic and (reference == "auto" or phase == "zero"):
        return Signs("zero", None, "positive ground state: no phases")
    if reference == "none":
        return Signs("learned", None, "a phase head learns all signs")
    if reference != "auto":
        given = f"signs of the given {type(reference).__name__}"
        if phase == "zero":  # whoever gives both says that they are exact
            return Signs("zero", reference, given)
        return Signs("learned", reference, f"{given}, a phase head learns the rest")
    marshall = _marshall(hamiltonian)
    if marshall is not None and marshall_exact(hamiltonian):
        return Signs("zero", marshall, "Marshall's rule gives the exact signs")
    if marshall is not None and _turns_negative(hamiltonian, marshall):
        return Signs("learned", marshall, "Marshall's rule for the signs, a phase head learns the rest")
    if phase == "zero":  # refused by the caller, without the time of a mean field
        return Signs("learned", None, "")
    try:
        found = hartree_fock(hamiltonian)
    except ValueError:
        return Signs("learned", None, "a phase head learns all signs")
    except RuntimeError as error:
        return Signs("learned", None, f"{error}\nGoing on without it: a phase head learns all signs.", True)
    gap = found.gap if found.gap > OPEN_SHELL * energy_scale(hamiltonian) else 0.0
    shell = "" if gap else ", an open shell: one of many determinants"
    line = f"Hartree-Fock E = {with_decimals(found.energy)} {unit}, gap {with_decimals(gap, 4)} {unit}{shell}"
    return Signs("learned", found.determinant, line, True)


def _marshall(hamiltonian: Hamiltonian) -> MarshallSign | None:
    """The rule, for Hamiltonians that say whether it is exact."""
    sublattice = None if marshall_exact(hamiltonian) is None else marshall_sublattice(hamiltonian)
    return None if sublattice is None else MarshallSign(sublattice=sublattice)


def _turns_negative(hamiltonian: Hamiltonian, reference: ReferencePhase) -> bool:
    """Whether a sign rule turns more of the positive off-diagonal elements than of the negative ones."""
    n = hamiltonian.hilbert.random(PROBES, torch.Generator().manual_seed(0))
    connected = hamiltonian.connected(n)
    sign = torch.cos(reference.phase(connected.configurations) - reference.phase(n)[connected.parents])
    return bool((connected.elements.real * (1 - sign)).sum() > 0)


# ----------------------------------------------------------------------------------------------------------- network


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
    if isinstance(reference, ListedState):
        return peaked.network(wishes.given, phase, reference, device)
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
        start="reference" if large and not averaged and isinstance(reference, SlaterDeterminant) else "uniform",
    )
    return on_lattice(chosen, lattice)


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


def with_network(model: Any, network: TransformerConfig) -> Any:
    """The model with another network under its symmetry, with the reference phase that it has."""
    reference = network_of(model).reference
    if reference != network.reference:  # projected on a sector
        network = replace(network, reference=reference, start="uniform")
    return replace(model, base=network) if hasattr(model, "base") else network
