"""What is known of the signs of a ground state: none, a rule, or those of a mean-field determinant."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.estimate import with_decimals
from nqs.models import MarshallSign, SlaterDeterminant, hartree_fock
from nqs.protocols import Hamiltonian, ReferencePhase, is_stoquastic, marshall_exact, marshall_sublattice, peak_of
from nqs.recipes import peaked

# Gap of a mean field, in units of the energy scale: rounding alone leaves 4e-16 and 2e-16 (Hubbard ring of 8 and 4x4
# lattice, half filling, U = 0), U = 0.1 opens one of 2.6e-2 on that ring (`hartree_fock(hamiltonian).gap /
# energy_scale(hamiltonian)`).
OPEN_SHELL = 1e-9
# Configurations whose matrix elements show whether a sign rule fits. Of a mean field more are drawn, up to MOST_PROBES,
# at least twice, until the fraction of positive hopping is further than CLEAR standard errors from FEW_WRONG_SIGNS. 64
# draws left 1.0e-2 of the 4x4 t-V lattice (5 fermions, V = 10), 4,096 leave 5.2e-3 +- 4e-4. Of 44 problems (those
# below, and t-V and Hubbard chains with other fillings) 38 are clear after 256 draws, all after 1,536, in 0.14 s of one
# core for 256 at most (4x8 Hubbard lattice; `positive_hopping(hamiltonian, hartree_fock(hamiltonian).determinant)`).
PROBES, MOST_PROBES, CLEAR = 256, 2**12, 3.0
# Fraction of positive hopping, with the signs of a mean field, up to which they count as right. In one dimension it is
# 8e-4 and less, most often 0; most lattices have 5e-3 to 8e-2: Hubbard 2x4 (open and periodic, U = 8), 2x8 (open), 3x4,
# 4x4 and 4x8, t-V 4x4 with 3, 4 and 5 fermions, 6x6 with 13. Between them are charge-density waves: half filling with
# V = 10 has 2.0e-3 on 4x4 and 1.8e-3 on 4x6 sites (errors 4e-4). Transformers and determinants ended there at -1.042
# and -1.036 (exact -1.0579), at -1.588 and -0.91(6); with 5 fermions on 4x4 sites, 5.2e-3, at -3.10 and -4.0515(7)
# (seed 1: -2.59 and -4.0519(8); exact -4.0521). On the ring of 24 sites, 12 fermions, V = 1, 0, they are 2.3e-4 and
# 3.2e-4 above (three minutes of a CPU). `nqs run tv --shape 4 4 --n-particles 5 --V 10 --sampled --symmetry none
# --model.network determinant --minutes 1.5 --device cpu --threads 1`, and so on; 4x6 without `--sampled
# --symmetry none`.
FEW_WRONG_SIGNS = 3e-3


class Signs(NamedTuple):
    """Known signs of a ground state.

    Attributes:
        phase: "zero" if no phase is learned.
        reference: a fixed phase of each configuration.
        why: one line.
        computed: a mean field was solved for, or configurations were selected, in this call.
    """

    phase: Literal["learned", "zero"]
    reference: ReferencePhase | None
    why: str
    computed: bool = False

    @property
    def determinant(self) -> SlaterDeterminant | None:
        """The reference, if it is a Slater determinant."""
        return self.reference if isinstance(self.reference, SlaterDeterminant) else None

    @property
    def real_determinant(self) -> SlaterDeterminant | None:
        """The reference, if it is a Slater determinant of real orbitals."""
        return self.determinant if self.determinant is not None and self.determinant.up_imaginary is None else None


def signs(
    hamiltonian: Hamiltonian,
    reference: Literal["auto", "none"] | ReferencePhase = "auto",
    phase: Literal["learned", "zero"] | None = None,
    *,
    unit: str = "J",
    device: torch.device | str = "cpu",
    minutes: float | None = None,
) -> Signs:
    """What gives the signs of the ground state; decided from the Hamiltonian's contract and its matrix elements.

    - peaked (`peak`): the signs of a list of selected configurations, and a phase head learns the rest; unless the list
      shows that many configurations carry the state;
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
        device, minutes: of the run, which bound the list.

    Raises:
        ValueError: phase="zero" where no rule gives the exact signs.
    """
    found = _signs(hamiltonian, reference, phase, unit, device, minutes)
    if phase == "zero" and found.phase != "zero":
        raise ValueError(
            "no rule gives the exact signs of this ground state: add --model.phase learned, or leave the phase open."
        )
    return found if phase is None else found._replace(phase=phase)


def _signs(
    hamiltonian: Hamiltonian,
    reference: Any,
    phase: str | None,
    unit: str,
    device: torch.device | str,
    minutes: float | None,
) -> Signs:
    many = ""
    if reference == "auto" and phase != "zero" and peak_of(hamiltonian) is not None:
        of_list = peaked.listed(hamiltonian, unit, device, minutes)
        if of_list is not None:
            return Signs("learned", *of_list, True)
        many = "many configurations carry the ground state; "
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
    line = f"{many}Hartree-Fock E = {with_decimals(found.energy)} {unit}, gap {with_decimals(gap, 4)} {unit}{shell}"
    return Signs("learned", found.determinant, line, True)


def _marshall(hamiltonian: Hamiltonian) -> MarshallSign | None:
    """The rule, for Hamiltonians that say whether it is exact."""
    sublattice = None if marshall_exact(hamiltonian) is None else marshall_sublattice(hamiltonian)
    return None if sublattice is None else MarshallSign(sublattice=sublattice)


def _turns_negative(hamiltonian: Hamiltonian, reference: ReferencePhase) -> bool:
    """Whether a sign rule turns more of the positive off-diagonal elements than of the negative ones."""
    n = hamiltonian.hilbert.random(PROBES, torch.Generator().manual_seed(0))
    elements, sign, _ = _with_signs(hamiltonian, reference, n)
    return bool((elements * (1 - sign)).sum() > 0)


def has_nodes(hamiltonian: Hamiltonian, reference: SlaterDeterminant) -> bool:
    """Whether the ground state has nodes that the signs of a determinant do not remove (`FEW_WRONG_SIGNS`)."""
    return positive_hopping(hamiltonian, reference)[0] >= FEW_WRONG_SIGNS


def positive_hopping(hamiltonian: Hamiltonian, reference: SlaterDeterminant) -> tuple[float, float]:
    """Fraction of the off-diagonal elements that the signs of a determinant leave positive, and its standard error.

    On draws of the determinant, until it is clear on which side of `FEW_WRONG_SIGNS` the fraction is.
    """
    conditionals = reference.conditionals(hamiltonian.hilbert.local_dim)
    generator, parts = torch.Generator().manual_seed(0), []
    while True:
        n = conditionals.draw(hamiltonian.hilbert, PROBES, generator)
        elements, sign, parents = _with_signs(hamiltonian, reference, n)
        terms = torch.stack([(elements * sign).clamp(min=0), elements.abs()])
        parts.append(terms.new_zeros((2, PROBES)).index_add_(1, parents, terms))
        positive, total = torch.cat(parts, 1)
        weight = total.sum().clamp(min=torch.finfo(total.dtype).tiny)
        fraction = positive.sum() / weight
        error = (positive - fraction * total).square().sum().sqrt() / weight  # of a ratio of means
        clear = len(parts) > 1 and abs(fraction - FEW_WRONG_SIGNS) > CLEAR * error  # few draws have too small an error
        if clear or len(total) >= MOST_PROBES:
            return float(fraction), float(error)


def _with_signs(
    hamiltonian: Hamiltonian, reference: ReferencePhase, n: UInt8[Tensor, "B L"]
) -> tuple[Float64[Tensor, " K"], Float64[Tensor, " K"], Int64[Tensor, " K"]]:
    """Off-diagonal elements of configurations, the sign that a reference gives to each, and their configurations."""
    connected = hamiltonian.connected(n)
    sign = torch.cos(reference.phase(connected.configurations) - reference.phase(n)[connected.parents])
    return connected.elements.real, sign, connected.parents
