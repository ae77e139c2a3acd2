"""The wavefunction of a run: signs, symmetry sector and network, chosen together, with the reasons."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from nqs.models import SlaterDeterminant, TransformerConfig
from nqs.protocols import Hamiltonian, WavefunctionConfig, lattice_of
from nqs.recipes import convolutions, group_convolutions
from nqs.recipes.choices import Choices
from nqs.recipes.known_signs import Signs, has_nodes, signs
from nqs.recipes.model import NetworkOptions, determinant_reason, determinants, network, with_network
from nqs.recipes.peaked import is_list
from nqs.recipes.samplers import MANY
from nqs.recipes.sector import averaged_with_nodes, is_average, symmetrised, terms_of


@dataclass(frozen=True)
class Reason:
    """Reason for a choice, one line.

    Attributes:
        announced: printed before the run.
    """

    subject: str
    text: str
    announced: bool = False


def chosen_model(
    hamiltonian: Hamiltonian, choices: Choices, device: torch.device, unit: str
) -> tuple[WavefunctionConfig, SlaterDeterminant | None, list[Reason]]:
    """The wavefunction with everything chosen, the mean field that gives its signs, and the reasons.

    In this order:
        1. a configuration of another kind of state that was given: that one;
        2. the signs (`nqs.recipes.known_signs.signs`), on which the rest depends;
        3. positive states of conserved charges on lattices, beyond sums: convolutions (`convolutions.reason`);
        4. frustrated spins on lattices, beyond lists of orbits: group convolutions (`group_convolutions.choice`);
        5. the sector of a symmetry, for what follows (`nqs.recipes.sector.symmetrised`);
        6. fermions with nodes, beyond sums: backflow determinants (`determinant_reason`), without that symmetry;
        7. else a transformer (`nqs.recipes.model.network`), around a list of configurations where it gives the signs,
           and beyond sums as an average over few symmetries where fermions have nodes (`averaged_with_nodes`).
    With a number of distinct configurations, which Markov chains do not have, 3 to 6 are left out unless requested.

    Raises:
        ValueError: signs or a kind of network that the problem does not have.
    """
    model, reference, hilbert = choices.model, choices.reference, hamiltonian.hilbert
    if isinstance(model, TransformerConfig) and model.reference is not None and reference == "auto":
        reference = model.reference
    if model is not None and not isinstance(model, (NetworkOptions, TransformerConfig)):
        return model, None, [Reason("model", f"{type(model).__name__}, as it was given")]
    wishes = _wishes(model)
    known = signs(hamiltonian, reference, wishes.phase, unit=unit, device=device, minutes=choices.minutes)
    why = [Reason("signs", known.why, known.computed)]
    mean_field = known.determinant if reference == "auto" else None
    # Sizes follow when the number of orbits is known.
    config: Any = TransformerConfig(phase=known.phase, reference=known.reference)
    # A number of distinct configurations is for the tree sampler, which needs a transformer.
    many = choices.distinct is not None and wishes.network is None
    if not many and (text := convolutions.reason(hamiltonian, wishes.network, wishes.given, known.phase, device)):
        why.append(Reason("model", text, announced=True))
        with_symmetry = choices.symmetry == "auto"
        positive, text = convolutions.convolutional(
            hamiltonian, wishes.given, known.reference, device, symmetric=with_symmetry
        )
        return positive, None, [*why, Reason("symmetry", text, announced=True)]
    found = (
        None
        if many
        else group_convolutions.choice(
            hamiltonian, wishes.network, wishes.given, known, device, symmetric=choices.symmetry == "auto"
        )
    )
    if found is not None:
        of_group, text, reason = found
        why.append(Reason("model", reason, announced=True))
        return of_group, None, [*why, Reason("symmetry", text, announced=True)]
    symmetric = choices.symmetry == "auto" and choices.distinct is None and not is_list(known.reference)
    of_sector = ""
    if symmetric and wishes.network != "determinant":
        config, of_sector = symmetrised(config, hamiltonian, device)
    terms, lattice = terms_of(config, hilbert, device), lattice_of(hamiltonian)
    if text := "" if many else determinant_reason(hamiltonian, wishes, known, terms, device):
        assert known.determinant is not None
        why.append(Reason("model", text, announced=True))
        return determinants(wishes, known.determinant, lattice, device), mean_field, why
    if symmetric and terms > MANY[device.type] and isinstance(config, TransformerConfig):
        config, of_sector = _with_nodes(config, hamiltonian, known, device) or (config, of_sector)
    if of_sector:
        why.append(Reason("symmetry", of_sector, announced=True))
    chosen = network(
        wishes,
        known.phase,
        terms,
        hilbert,
        device,
        choices.minutes,
        lattice=lattice,
        averaged=is_average(config),
        reference=known.reference,
    )
    if isinstance(model, TransformerConfig) and model.displacements is not None:
        chosen = replace(chosen, displacements=model.displacements)
    return with_network(config, chosen), mean_field, why


def _with_nodes(
    config: TransformerConfig, hamiltonian: Hamiltonian, known: Signs, device: torch.device
) -> tuple[WavefunctionConfig, str] | None:
    """An average over few symmetries where fermions have nodes, and real orbitals give the signs; None elsewhere."""
    orbitals = known.real_determinant
    if orbitals is None or known.phase == "zero" or not has_nodes(hamiltonian, orbitals):
        return None
    return averaged_with_nodes(config, hamiltonian, orbitals, device)


def _wishes(base: NetworkOptions | TransformerConfig | None) -> NetworkOptions:
    if isinstance(base, NetworkOptions):
        return base
    if base is None:
        return NetworkOptions()
    names = {field.name for field in fields(NetworkOptions)} - {"network", "determinants"}
    return NetworkOptions(network="transformer", **{name: getattr(base, name) for name in names})
