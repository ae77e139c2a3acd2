"""Initial parameters from another run: for other couplings, or for another lattice.

On the same sector all parameters are copied. On a lattice of another size the blocks, the norm and, for the local
states that both sectors have, the rows of token embedding and head are copied. Local states that only the new sector
has, higher occupations, start with the parameters of the highest one known. Site embeddings are repeated: the sites of
the front half start as the first ones, those of the back half as the last ones, and those between alternate between
the two in the middle, direction by direction. The ends of a configuration are special even on a ring, because the first
site has no predecessor and the last ones hold the remaining particles; sublattices are preserved if sizes differ by an
even number. Linear interpolation, which mixes them, started at higher energies in most cases
tried (chains of spins and bosons, 4 to 6 and 6 to 12 sites).

Phases are copied where both models measure them from the same kind of reference; else the phase head starts as it was.
Symmetries and references belong to the new model and are not copied.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.archive.archive import Archive
from nqs.archive.serialise import digest
from nqs.hilbert import HilbertSpace, Values
from nqs.models import Transformer, TransformerConfig
from nqs.models.factored_attention import Mixing
from nqs.protocols import Hamiltonian, Wavefunction, lattice_of
from nqs.vmc.continuation import rebuild
from nqs.vmc.stored import check_parameters, one_line

# Of a TransformerConfig: two models may differ in them and still fit.
FREE = ("seed", "dtype", "phase", "displacements", "reference")


def transfer(wavefunction: Wavefunction, hamiltonian: Hamiltonian, archive: Archive) -> str:
    """Start the parameters of a wavefunction from those in an archive.

    Args:
        wavefunction: a `Transformer`, symmetrised or as it is.
        hamiltonian: of the new run.
        archive: of a run with at least one finished step, of the same kind of model.

    Returns:
        One line that says what was done.

    Raises:
        ArchiveError: no finished step, or no run of nqs in it.
        ValueError: the models do not fit together.
    """
    built = rebuild(archive.config, only=("hamiltonian", "model"))
    old, new = (getattr(model, "base", model) for model in (built["model"], wavefunction.config))
    model = next((m for m in wavefunction.modules() if isinstance(m, Transformer)), None)
    if model is None or not isinstance(old, TransformerConfig) or not isinstance(new, TransformerConfig):
        raise ValueError(
            f"{archive.path} holds a {type(old).__name__}, here is a {type(new).__name__}: only a transformer can "
            "start with the parameters of another one. Load others with load_state_dict."
        )
    _refuse_other_shape(archive, old, new)
    old_hilbert = built["hamiltonian"].hilbert
    with one_line(archive.path):
        check_parameters(old, old_hilbert, archive)
    local_states = _common_local_states(archive, old_hilbert, hamiltonian.hilbert)
    parameters = {
        name.rsplit("base.", 1)[-1]: torch.from_numpy(values).double() for name, values in archive.parameters().items()
    }
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, values in parameters.items():
        if name not in ("token.weight", "site.weight", "head.weight", "head.bias"):
            state[name] = values
    d_old, d_new = old_hilbert.local_dim, hamiltonian.hilbert.local_dim
    known = torch.arange(d_new).clamp(max=local_states - 1)  # the local state whose parameters serve each one
    state["token.weight"] = parameters["token.weight"][torch.cat([known, torch.tensor([d_old])])]
    sites = counterparts(built["hamiltonian"], hamiltonian)
    state["site.weight"] = parameters["site.weight"][sites]
    for name, mixing in model.named_modules():
        if isinstance(mixing, Mixing):
            before = Mixing(mixing.heads, old_hilbert.n_sites, old.displacements)
            before.weight.data = parameters[f"{name}.weight"]
            state[f"{name}.weight"] = remixed(before, mixing, sites)
    phases = old.phase == new.phase == "learned" and type(old.reference) is type(new.reference)
    for name in ("head.weight", "head.bias"):
        state[name][:d_new] = parameters[name][known].to(state[name])
        if phases:
            state[name][d_new:] = parameters[name][d_old + known].to(state[name])
    model.load_state_dict(state)
    done = []
    if old_hilbert.n_sites != hamiltonian.hilbert.n_sites:
        done.append(f"site embeddings repeated from {old_hilbert.n_sites} sites")
    if d_new > local_states:
        done.append(f"local states above {old_hilbert.state_names[local_states - 1]} start as that one")
    if new.phase == "learned" and not phases:
        done.append("the phase head starts anew")
    return f"parameters of {archive.path} after {archive.step:,} steps" + "".join(f", {text}" for text in done)


def load(
    archive: Archive, *, types: Mapping[str, type] | None = None, device: torch.device | str = "cpu"
) -> Wavefunction:
    """The wavefunction of an archive with the parameters after its last step: to measure, or to fit another model to.

    Args:
        types: classes of your own that the run was built from, by name.

    Raises:
        ArchiveError: no checkpoint, or no run of nqs in it.
        ValueError: the run was built from classes that nqs does not know; pass them in `types`.
    """
    built = rebuild(archive.config, types, only=("hamiltonian", "model"))
    with one_line(archive.path):
        check_parameters(built["model"], built["hamiltonian"].hilbert, archive)
        wavefunction = built["model"].build(built["hamiltonian"].hilbert, device)
        wavefunction.load_state_dict({name: torch.from_numpy(values) for name, values in archive.parameters().items()})
    return wavefunction.eval()


def origin(archive: Archive) -> dict[str, Any]:
    """Which parameters an archive holds, in plain data: the run, by a digest of its configuration, and its steps."""
    return {"run": digest(archive.config), "step": archive.step}


def counterparts(old: Hamiltonian, new: Hamiltonian) -> Int64[Tensor, " L"]:
    """The old site whose embedding each new site takes.

    Direction by direction where both lattices have as many, and unit cells of as many sites; else along the numbering.
    """
    shapes = []
    for hamiltonian in (old, new):
        lattice = lattice_of(hamiltonian)
        if lattice is not None and lattice.shape:
            shapes.append((*lattice.shape, len(lattice.basis)))
        else:
            shapes.append((hamiltonian.hilbert.n_sites, 1))
    if len(shapes[0]) != len(shapes[1]) or shapes[0][-1] != shapes[1][-1]:
        shapes = [(hamiltonian.hilbert.n_sites, 1) for hamiltonian in (old, new)]
    sites = torch.zeros(1, dtype=torch.int64)
    for M, L in zip(*shapes, strict=True):
        sites = (sites[:, None] * M + _from_both_ends(M, L)).flatten()
    return sites


def _from_both_ends(M: int, L: int) -> Int64[Tensor, " L"]:
    """Which of M places in a row each of L takes: 0 1 2 3 2 3 4 5 for M = 6, L = 8, and 0 1 4 5 for M = 6, L = 4."""
    place, front = torch.arange(L), (min(M, L) + 1) // 2
    middle = max((M + 1) // 2 - 1, 0) + (place - front + 1) % 2 if M > 1 else torch.zeros_like(place)
    back = place >= L - (min(M, L) - front)
    return torch.where(place < front, place, torch.where(back, place + M - L, middle))


def remixed(old: Mixing, new: Mixing, sites: Int64[Tensor, " L"]) -> Float64[Tensor, "H K"]:
    """Weights of factored attention for the classes of other pairs of sites: the mean of those of their counterparts.

    Args:
        sites: the old site that stands for each new one.
    """
    of_pairs = old.matrices().detach()[:, sites][:, :, sites].flatten(1)  # (H, L L)
    classes = new.classes.cpu().flatten()
    K = new.weight.shape[1]
    total = of_pairs.new_zeros((len(of_pairs), K + 1)).index_add_(1, classes, of_pairs)
    return total[:, :K] / classes.bincount()[:K]


def _refuse_other_shape(archive: Archive, old: TransformerConfig, new: TransformerConfig) -> None:
    old, new = (replace(config, heads=config.n_heads) for config in (old, new))
    names = [f.name for f in fields(TransformerConfig) if f.name not in FREE]
    wrong = [name for name in names if getattr(old, name) != getattr(new, name)]
    if wrong:
        found = ", ".join(f"{name}={getattr(old, name)}" for name in wrong)
        here = ", ".join(f"{name}={getattr(new, name)}" for name in wrong)
        flags = " ".join(f"--model.{name.replace('_', '-')} {getattr(old, name)}" for name in wrong)
        raise ValueError(
            f"{archive.path} holds a transformer with {found}, here is one with {here}: its parameters fit only where "
            f"{', '.join(names)} are the same ({flags}). A model of another shape can be fitted on the same sector: "
            "nqs.pretraining.fit(model, nqs.transfer.load(archive), steps=...)."
        )


def _common_local_states(archive: Archive, old: HilbertSpace, new: HilbertSpace) -> int:
    """How many local states both sectors have; they are the first ones of each."""
    common = min(old.local_dim, new.local_dim)
    by_species = bool(old.species and new.species)
    if _content(old, common, by_species) != _content(new, common, by_species):
        raise ValueError(
            f"{archive.path} is about sites that are {', '.join(old.state_names)}, here they are "
            f"{', '.join(new.state_names)}: start from a run with the same kind of particles."
        )
    return common


def _content(hilbert: HilbertSpace, common: int, by_species: bool) -> list[object]:
    """What the first local states hold, by kinds of sites; where no species are known, their names stand for it."""
    if not by_species:
        return list(hilbert.state_names[:common])

    def rows(values: Values | None) -> object:
        return None if values is None else sorted(set(map(tuple, hilbert.table(values)[:, :common].tolist())))

    return [(species.kind, rows(species.occupation), rows(species.twice_sz)) for species in hilbert.species]
