"""The plan of a run: every choice resolved, with the reason for each."""

import textwrap
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.models import (
    DeterminantConfig,
    ListedState,
    OnOrbits,
    ProjectedDeterminant,
    SlaterDeterminant,
    TransformerConfig,
)
from nqs.optimisation.stages import Evaluation, RunConfig, Stage, stages
from nqs.protocols import (
    Hamiltonian,
    OptimiserConfig,
    ReferencePhase,
    SamplerConfig,
    Wavefunction,
    WavefunctionConfig,
    lattice_of,
    unit_of,
)
from nqs.recipes.known_signs import signs
from nqs.recipes.model import (
    NetworkOptions,
    determinant_reason,
    determinants,
    network,
    network_of,
    with_network,
)
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.peaked import is_peaked
from nqs.recipes.samplers import is_autoregressive, is_exhaustive, is_large
from nqs.recipes.sector import symmetrised
from nqs.recipes.stages import method
from nqs.recipes.steps import MINUTES, seconds_of_step, steps_within
from nqs.recipes.threads import threads as threads_of
from nqs.runtime.device import checked_device, default_device
from nqs.runtime.memory import require_memory
from nqs.runtime.options import check_options
from nqs.runtime.threads import checked_threads
from nqs.samplers import GumbelSampler, MetropolisSampler, TreeSampler

PRETRAIN = ("none", "mean-field", "exact")
SAMPLE_BYTES = 64  # of a sample, besides its configuration: weight, amplitude, remainder, bookkeeping of the tree
COLUMN = 12  # of the names in a printed plan

Pretrain = Literal["none", "mean-field", "exact"]


@dataclass(frozen=True)
class Reason:
    """Reason for a choice, one line.

    Attributes:
        announced: printed before the run.
    """

    subject: str
    text: str
    announced: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A fully resolved run: the same plan gives the same run.

    It is plain data (`nqs.archive.serialise.to_plain`) where its Hamiltonian and model are.

    Attributes:
        hamiltonian: of the problem.
        model: the wavefunction: network, reference signs, symmetry sector.
        mean_field: the determinant of Hartree-Fock where it gives the signs, before a projection on the sector.
        run: length and seed of the run: a number of steps, or minutes that as many as fit are made in.
        stages: of the steps, in their order, without annealing.
        n_images: number of images over which amplitudes are averaged in steps; 1 without an average.
        evaluation: sampler of the quoted energy.
        initial: archive that the parameters start from.
        pretrain: state that the model is fitted to before the first step.
        device: "cpu" or "cuda".
        threads: of the CPU.
        unit: of the energies.
        precision: of the network: "float64", "float32" or "mixed".
        parameters: their number.
        minutes: time limit of the process.
        seconds: estimate for all steps.
        why: the reasons for what was chosen.
    """

    hamiltonian: Hamiltonian
    model: WavefunctionConfig
    mean_field: SlaterDeterminant | None = None
    run: RunConfig
    stages: tuple[Stage, ...]
    n_images: int
    evaluation: SamplerConfig | Evaluation
    initial: str | None = None
    pretrain: Pretrain = "none"
    device: str
    threads: int
    unit: str
    precision: str
    parameters: int
    minutes: float | None = None
    seconds: float
    why: tuple[Reason, ...]

    @property
    def steps(self) -> int | None:
        """Of all stages; None: as many as fit into the time."""
        return self.run.steps

    @property
    def summary(self) -> str:
        """One line: steps, samples, parameters, device."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else ""
        samples = _samples(self.stages[-1].sampler)
        return f"{_length(self.run)}, {samples}, {self.parameters:,} parameters, on {self.device}{threads}"

    def reason(self, subject: str) -> str:
        """Reason for a choice, "" if there was none."""
        return "\n".join(reason.text for reason in self.why if reason.subject == subject)

    def __str__(self) -> str:
        rows = [("sector", str(self.hamiltonian.hilbert)), *((reason.subject, reason.text) for reason in self.why)]
        if self.steps is not None:
            rows.append(("time", f"about {self.seconds:.0f} s for the steps, by an estimate"))
        lines = [str(self.hamiltonian)]
        for subject, text in rows:
            wrapped = textwrap.wrap(" ".join(text.split()), 120 - COLUMN - 2)
            lines += [f"  {'' if i else subject:<{COLUMN}}{line}" for i, line in enumerate(wrapped)]
        return "\n".join(lines)

    __repr__ = __str__


def plan(
    hamiltonian: Hamiltonian,
    *,
    model: NetworkOptions | WavefunctionConfig | None = None,
    reference: Literal["auto", "none"] | ReferencePhase = "auto",
    symmetry: Literal["auto", "none"] = "auto",
    distinct: int | None = None,
    sampled: bool = False,
    optimiser: OptimiserOptions | OptimiserConfig | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    total_minutes: float | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    annealing: float = 0.5,
    initial: str | Path | None = None,
    pretrain: Pretrain = "none",
    device: torch.device | str | None = None,
    threads: int | None = None,
) -> Plan:
    """Choose how to find the ground state of a Hamiltonian: what `nqs.ground_state` does, and why, before it is done.

    Args:
        hamiltonian: the problem, which states the sector.
        model: wishes for the network, the others are chosen; or a model: one of `TransformerConfig` gets signs and
            symmetry, one with a reference phase a symmetry, any other is taken as it is.
        reference: what gives the signs of the ground state: "auto": what is known of them; "none": a phase head learns
            all; or a reference phase, such as `nqs.models.MarshallSign`.
        symmetry: "auto": the symmetry sector of the ground state, where that is known and pays off; "none".
        distinct: distinct configurations of each step (of determinants: Markov chains), without a symmetry; by default
            chosen from the sector.
        sampled: no sums over the whole sector, neither in steps nor in the evaluation, also where the sector is small:
            small systems then show what the method does in large ones.
        optimiser: wishes for the natural gradient, the others are chosen; or an optimiser.
        steps: optimisation steps in all; None: of sampled runs as many as fit into the time, by the measured cost of
            the first ones, else a number by experience.
        minutes: time limit of a process, evaluation included. It also gives the length of a sampled run, for large
            systems (nqs.recipes.samplers) ten minutes on a GPU and five on a CPU by default. Where sums are exhaustive
            a shorter run or a narrower network is chosen if the usual one would take longer, by an estimate.
        total_minutes: length of a sampled run that several processes continue.
        seed: of the samples.
        temperature: of entropy annealing at the start, in the unit of the energy; 0 for none.
        annealing: fraction of the steps over which the temperature falls to zero.
        initial: archive of another run that the parameters start from: other couplings, or another lattice.
        pretrain: state that the model is fitted to before the first step: the determinant that gives its signs
            ("mean-field"), or the exact ground state ("exact").
        device: "cpu" or "cuda"; by default a GPU where there is one.
        threads: of the CPU; by default one for small steps, else one a core.

    Raises:
        ValueError: an unknown device, a phase that is not known exactly (phase="zero"), or another impossible choice.

    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> chosen = plan(Heisenberg(chain(8), total_sz=0), device="cpu", threads=1)
    >>> print(chosen)
    Heisenberg, H = 1 sum_<ij> S_i.S_j, S = sigma/2, chain(8, periodic), total Sz = 0
      sector      8 sites x 2 local states, 2 Sz = 0, dimension 70
      signs       Marshall's rule gives the exact signs
      symmetry    32 symmetries, all even (sector of the reference phase)
      network     width 32, 2 layers, dot-product attention, mixed, 17,570 parameters
      steps       80 steps, every configuration in each
      evaluation  every configuration
      time        about 12 s for the steps, by an estimate
    """
    check_options(
        hamiltonian=hamiltonian, model=model, reference=reference, symmetry=symmetry, distinct=distinct,
        optimiser=optimiser, steps=steps, minutes=minutes, total_minutes=total_minutes, seed=seed,
        temperature=temperature, annealing=annealing, initial=initial, pretrain=pretrain, device=device,
        threads=threads,
    )  # fmt: skip
    if pretrain not in PRETRAIN:
        raise ValueError(f"pretrain={pretrain!r}: choose among {', '.join(map(repr, PRETRAIN))}.")
    RunConfig(steps=steps, seed=seed, temperature=temperature, annealing=annealing)  # refuses impossible values
    check_hamiltonian(hamiltonian)  # before symmetries and signs are looked for
    on = checked_device(str(default_device() if device is None else device))
    unit = unit_of(hamiltonian)
    config, mean_field, why = _model(
        hamiltonian, model, reference, symmetry if distinct is None else "none", distinct, on, minutes, unit
    )
    if pretrain == "mean-field":
        _check_determinant(config)
    hilbert = hamiltonian.hilbert
    wavefunction = config.build(hilbert, on)
    of_steps = wavefunction.for_steps()
    sampler: SamplerConfig | None = None
    if distinct is not None:
        chains = not is_autoregressive(wavefunction)
        sampler = (
            MetropolisSampler(n_samples=distinct, n_chains=distinct) if chains else TreeSampler(n_distinct=distinct)
        )
        samples = min(distinct, hilbert.dimension) * (hilbert.n_sites + SAMPLE_BYTES)
        require_memory(samples, f"distinct={distinct:,}", "choose fewer distinct configurations", on)
    chosen = method(wavefunction, on, sampler=sampler, given=optimiser, sampled=sampled)
    samples_only = not is_exhaustive(chosen.sampler) and chosen.warm_up is None
    by_time = is_large(of_steps, on) or is_peaked(of_steps) or minutes is not None or total_minutes is not None
    timed = steps is None and samples_only and by_time
    if timed:
        minutes = minutes or (MINUTES[on.type] if total_minutes is None else None)
        run = RunConfig(minutes=total_minutes or minutes, seed=seed, temperature=temperature, annealing=annealing)
    else:
        if total_minutes is not None:
            raise ValueError(
                f"total_minutes={total_minutes:g}: only sampled runs without a number of steps have a length in "
                "minutes; give steps, or minutes as a limit."
            )
        fitting, wanted = steps_within(minutes, of_steps, chosen.sampler, on)
        run = RunConfig(steps=steps or fitting, seed=seed, temperature=temperature, annealing=annealing)
        if steps is None and fitting < wanted:
            why.append(
                Reason(
                    "shortened", f"{fitting} steps instead of {wanted}, as far as fits into {minutes:g} minutes", True
                )
            )
    why.append(_network_reason(config, wavefunction))
    why.append(Reason("steps", f"{_length(run)}, {_samples(chosen.sampler)}"))
    parts = stages(replace(run, temperature=0.0), chosen.sampler, chosen.optimiser, chosen.warm_up)
    first = parts[0]
    if first.name == "warm-up":
        why.append(Reason("warm-up", f"the first {first.steps} steps from {_samples(first.sampler)}: sums take long"))
    why.append(Reason("evaluation", _samples(chosen.evaluation).removesuffix(" in each")))
    estimated = sum(stage.steps * seconds_of_step(of_steps, stage.sampler, on) for stage in parts)
    return Plan(
        hamiltonian=hamiltonian,
        model=config,
        mean_field=mean_field,
        run=run,
        stages=parts,
        n_images=chosen.n_images,
        evaluation=chosen.evaluation,
        initial=None if initial is None else str(initial),
        pretrain=pretrain,
        device=str(on),
        threads=threads_of(chosen.sampler, of_steps) if threads is None else checked_threads(threads),
        unit=unit,
        precision=_precision(config, wavefunction),
        parameters=wavefunction.n_parameters,
        minutes=minutes,
        seconds=60 * run.minutes if run.minutes is not None else estimated,
        why=tuple(why),
    )


def _model(
    hamiltonian: Hamiltonian,
    model: NetworkOptions | WavefunctionConfig | None,
    reference: Literal["auto", "none"] | ReferencePhase,
    symmetry: Literal["auto", "none"],
    distinct: int | None,
    device: torch.device,
    minutes: float | None,
    unit: str,
) -> tuple[WavefunctionConfig, SlaterDeterminant | None, list[Reason]]:
    """The wavefunction with everything chosen, the mean field that gives its signs, and the reasons."""
    if symmetry not in ("auto", "none"):
        raise ValueError(f"symmetry={symmetry!r}: choose 'auto' or 'none'.")
    if isinstance(model, TransformerConfig) and model.reference is not None and reference == "auto":
        reference = model.reference
    if model is not None and not isinstance(model, (NetworkOptions, TransformerConfig)):
        return model, None, [Reason("model", f"{type(model).__name__}, as it was given")]
    wishes = _wishes(model)
    known = signs(hamiltonian, reference, wishes.phase, unit=unit, device=device, minutes=minutes)
    why = [Reason("signs", known.why, known.mean_field)]
    hilbert = hamiltonian.hilbert
    found = known.reference if reference == "auto" and isinstance(known.reference, SlaterDeterminant) else None
    # Sizes follow when the number of orbits is known.
    config: Any = TransformerConfig(phase=known.phase, reference=known.reference)
    if isinstance(known.reference, ListedState):
        symmetry = "none"
    if symmetry == "auto" and wishes.network != "determinant":
        config, text = symmetrised(config, hamiltonian, device)
        why.append(Reason("symmetry", text, announced=True))
    on_orbits = isinstance(config, OnOrbits)
    terms = config.symmetry.number_of_orbits(hilbert, device) if on_orbits else hilbert.dimension
    as_usual = distinct is not None and wishes.network is None  # so many distinct ones are drawn from a transformer
    if text := "" if as_usual else determinant_reason(hamiltonian, wishes, known, terms, device):
        assert isinstance(known.reference, SlaterDeterminant)
        why = [why[0], Reason("model", text, announced=True)]
        return determinants(wishes, known.reference, lattice_of(hamiltonian), device), found, why
    chosen = network(
        wishes,
        known.phase,
        terms,
        hilbert,
        device,
        minutes,
        lattice=lattice_of(hamiltonian),
        averaged=hasattr(config, "symmetry") and not on_orbits,
        reference=known.reference,
    )
    if isinstance(model, TransformerConfig) and model.displacements is not None:
        chosen = replace(chosen, displacements=model.displacements)
    return with_network(config, chosen), found, why


def _wishes(base: NetworkOptions | TransformerConfig | None) -> NetworkOptions:
    if isinstance(base, NetworkOptions):
        return base
    if base is None:
        return NetworkOptions()
    names = {field.name for field in fields(NetworkOptions)} - {"network", "determinants"}
    return NetworkOptions(network="transformer", **{name: getattr(base, name) for name in names})


def _network_reason(config: WavefunctionConfig, wavefunction: Wavefunction) -> Reason:
    inner = network_of(config)
    if isinstance(inner, DeterminantConfig):
        layers = f"{inner.layers} layer{'s' * (inner.layers > 1)}"
        number = f"{inner.determinants} determinant{'s' * (inner.determinants > 1)}"
        size = f"{number}, backflow of width {inner.width}, {layers}, {inner.dtype}"
        return Reason("network", f"{size}, {wavefunction.n_parameters:,} parameters")
    if not isinstance(inner, TransformerConfig):
        return Reason("network", f"{type(inner).__name__}, {wavefunction.n_parameters:,} parameters")
    size = f"width {inner.width}, {inner.layers} layer{'s' * (inner.layers > 1)}, {inner.attention} attention"
    return Reason("network", f"{size}, {inner.dtype}, {wavefunction.n_parameters:,} parameters")


def _precision(config: WavefunctionConfig, wavefunction: Wavefunction) -> str:
    inner = network_of(config)
    parameter = next(wavefunction.parameters())
    return getattr(inner, "dtype", None) or str(parameter.dtype).removeprefix("torch.")


def _length(run: RunConfig) -> str:
    if run.steps is not None:
        return f"{run.steps:,} steps"
    return f"as many steps as fit into {run.minutes:g} minutes with the evaluation"


def _samples(sampler: SamplerConfig | Evaluation) -> str:
    if isinstance(sampler, Evaluation):
        return f"up to {sampler.batches} batches, {_samples(sampler.sampler)}"
    if is_exhaustive(sampler):
        return "every configuration in each"
    if isinstance(sampler, TreeSampler | GumbelSampler) and sampler.n_distinct is not None:
        return f"about {sampler.n_distinct:,} distinct configurations in each"
    if isinstance(sampler, MetropolisSampler):
        return f"{sampler.n_samples:,} samples of {sampler.n_chains:,} Markov chains in each"
    return str(sampler)


def _check_determinant(model: WavefunctionConfig) -> None:
    reference = getattr(network_of(model), "reference", None)
    if not isinstance(reference, (SlaterDeterminant, ProjectedDeterminant)):
        found = "no reference" if reference is None else f"the reference {type(reference).__name__}"
        raise ValueError(
            f"pretrain='mean-field' fits to the determinant that gives the model its signs, but this one has {found}: "
            "only fermions with signs have a determinant; choose exact or none."
        )
