"""The plan of a run: every choice resolved, with the reason for each."""

import textwrap
from dataclasses import dataclass, replace

import torch

from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.models import SlaterDeterminant
from nqs.optimisation.stages import Evaluation, RunConfig, Stage, stages
from nqs.protocols import Hamiltonian, SamplerConfig, Wavefunction, WavefunctionConfig, lattice_of, unit_of
from nqs.recipes.choices import Choices, Pretrain
from nqs.recipes.model import network_of
from nqs.recipes.peaked import is_peaked
from nqs.recipes.samplers import averages_phases, is_exhaustive, is_large, sampler_of
from nqs.recipes.stages import Method, method
from nqs.recipes.steps import MINUTES, seconds_of_step, steps_within
from nqs.recipes.threads import threads as threads_of
from nqs.recipes.wavefunction import Reason, chosen_model
from nqs.runtime.keywords import takes
from nqs.runtime.options import check_options, summary_of
from nqs.runtime.threads import checked_threads

COLUMN = 12  # of the names in a printed plan


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
        sampled: no sums over the whole sector were wanted.
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
    sampled: bool = False
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
        samples = f"{summary_of(self.stages[-1].sampler)} in each"
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


@takes(Choices)
def plan(hamiltonian: Hamiltonian, choices: Choices) -> Plan:
    """Choose how to find the ground state of a Hamiltonian: what `nqs.ground_state` does, and why, before it is done.

    Args:
        hamiltonian: the problem, which states the sector.
        {options}

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
    check_options(hamiltonian=hamiltonian)
    return resolved(hamiltonian, choices)


def resolved(hamiltonian: Hamiltonian, choices: Choices) -> Plan:
    """The plan for choices in a bundle."""
    check_hamiltonian(hamiltonian)  # before symmetries and signs are looked for
    on, unit = choices.on_device(), unit_of(hamiltonian)
    config, mean_field, why = chosen_model(hamiltonian, choices, on, unit)
    if choices.pretrain == "mean-field":
        _check_determinant(config)
    wavefunction = config.build(hamiltonian.hilbert, on)
    of_steps = wavefunction.for_steps()
    lattice = lattice_of(hamiltonian)
    sampler = None if choices.distinct is None else sampler_of(wavefunction, choices.distinct, on, lattice)
    chosen = method(
        wavefunction, on, sampler=sampler, given=choices.optimiser, sampled=choices.sampled, lattice=lattice
    )
    run, minutes, shortened = _run(choices, chosen, of_steps, on)
    parts = stages(replace(run, temperature=0.0), chosen.sampler, chosen.optimiser, chosen.warm_up)
    why += shortened
    why.append(Reason("network", f"{summary_of(network_of(config))}, {wavefunction.n_parameters:,} parameters"))
    why.append(Reason("steps", f"{_length(run)}, {summary_of(chosen.sampler)} in each"))
    first = parts[0]
    if first.name == "warm-up":
        text = f"the first {first.steps} steps from {summary_of(first.sampler)} in each: sums take long"
        why.append(Reason("warm-up", text))
    why.append(Reason("evaluation", summary_of(chosen.evaluation)))
    estimated = sum(stage.steps * seconds_of_step(of_steps, stage.sampler, on) for stage in parts)
    return Plan(
        hamiltonian=hamiltonian,
        model=config,
        mean_field=mean_field,
        run=run,
        stages=parts,
        n_images=chosen.n_images,
        evaluation=chosen.evaluation,
        initial=None if choices.initial is None else str(choices.initial),
        pretrain=choices.pretrain,
        sampled=choices.sampled,
        device=str(on),
        threads=threads_of(chosen.sampler, of_steps) if choices.threads is None else checked_threads(choices.threads),
        unit=unit,
        precision=_precision(config, wavefunction),
        parameters=wavefunction.n_parameters,
        minutes=minutes,
        seconds=60 * run.total_minutes if run.total_minutes is not None else estimated,
        why=tuple(why),
    )


def _run(
    choices: Choices, chosen: Method, of_steps: Wavefunction, device: torch.device
) -> tuple[RunConfig, float | None, list[Reason]]:
    """Length of the run, time limit of a process, and a reason where the limit shortens the run."""
    minutes, total = choices.minutes, choices.total_minutes
    samples_only = not is_exhaustive(chosen.sampler) and chosen.warm_up is None
    given = minutes is not None or total is not None
    by_time = given or is_large(of_steps, device) or averages_phases(of_steps) or is_peaked(of_steps)
    if choices.steps is None and samples_only and by_time:
        minutes = minutes or (MINUTES[device.type] if total is None else None)
        return choices.run(None, total or minutes), minutes, []
    if total is not None:
        raise ValueError(
            f"total_minutes={total:g}: only sampled runs without a number of steps have a length in minutes; give "
            "steps, or minutes as a limit."
        )
    fitting, wanted = steps_within(minutes, of_steps, chosen.sampler, device)
    shortened = []
    if choices.steps is None and fitting < wanted:
        text = f"{fitting} steps instead of {wanted}, as far as fits into {minutes:g} minutes"
        shortened.append(Reason("shortened", text, announced=True))
    return choices.run(choices.steps or fitting), minutes, shortened


def _precision(config: WavefunctionConfig, wavefunction: Wavefunction) -> str:
    inner = network_of(config)
    parameter = next(wavefunction.parameters())
    return getattr(inner, "dtype", None) or str(parameter.dtype).removeprefix("torch.")


def _length(run: RunConfig) -> str:
    if run.steps is not None:
        return f"{run.steps:,} steps"
    return f"as many steps as fit into {run.total_minutes:g} minutes with the evaluation"


def _check_determinant(model: WavefunctionConfig) -> None:
    reference = getattr(network_of(model), "reference", None)
    if not hasattr(reference, "amplitude"):
        found = "no reference" if reference is None else f"the reference {type(reference).__name__}"
        raise ValueError(
            f"pretrain='mean-field' fits to the determinant that gives the model its signs, but this one has {found}: "
            "only fermions with signs have a determinant; choose exact or none."
        )
