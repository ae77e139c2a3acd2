"""Variational Monte Carlo: sample, local energies, update; with a progress bar, an archive, and a final evaluation.

With entropy annealing the optimiser minimises the free energy <H> + T <log |psi|^2>, T falling linearly to zero, which
keeps the state from settling on few configurations early (Hibat-Allah et al., Nat. Mach. Intell. 3, 952 (2021),
arXiv:2101.10154). Quoted energies never contain that term.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from nqs import hamiltonians, hilbert, lattice, measurements, models, optimisation, samplers
from nqs.archive import Archive, ArchiveError
from nqs.exact import ExactGroundState
from nqs.local_energy import local_energies
from nqs.optimisation import OptimiserConfig, StochasticReconfiguration
from nqs.protocols import Hamiltonian, Sampler, Wavefunction
from nqs.recipes import evaluation_sampler, training_sampler
from nqs.samplers import TreeSampler
from nqs.serialise import differences, from_plain, to_plain
from nqs.statistics import EnergyEstimate, estimate_energy, infinite_temperature_energy

MAX_DECIMALS = 14


class NonFiniteError(FloatingPointError):
    """An energy or a parameter became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and randomness of a run.

    Attributes:
        steps: optimisation steps in all.
        seed: of the samples.
        temperature: T of entropy annealing at the start, in the Hamiltonian's unit; 0 for none.
        annealing: share of the steps over which T falls to zero.
    """

    steps: int = 200
    seed: int = 0
    temperature: float = 0.0
    annealing: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least one step must be made.")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: it must be 0 (no annealing) or positive.")
        if not 0 < self.annealing <= 1:
            raise ValueError(f"annealing={self.annealing}: give the share of the steps, above 0 and at most 1.")

    def temperature_at(self, step: int) -> float:
        """Linear from `temperature` to 0."""
        return self.temperature * max(0.0, 1 - step / (self.annealing * self.steps))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Attributes:
        estimate: energy, error bar, variance and V-score of the final evaluation, from samples that were not used
            for optimisation.
        n_sites: L.
        unit: of the energies.
        history: every recorded quantity, one value a step.
        seconds: wall time of the optimisation, over all resumed parts.
        exact: exact ground-state energy, where known.
        archive: the file it is kept in.
    """

    estimate: EnergyEstimate
    n_sites: int
    unit: str
    history: dict[str, np.ndarray]
    seconds: float
    exact: float | None = None
    archive: Path | None = None

    @property
    def relative_error(self) -> float:
        """(E - E_exact) / |E_exact|; nan where the exact energy is not known or 0."""
        return math.nan if self.exact is None else _relative(self.estimate.energy, self.exact)

    def __str__(self) -> str:
        e = self.estimate
        lines = [
            f"E = {with_error(e.energy, e.error)} {self.unit}",
            f"E / site = {with_error(e.energy / self.n_sites, e.error / self.n_sites)} {self.unit}",
            f"variance {e.variance:.2e}, V-score {e.v_score:.2e}, "
            f"{e.n_samples:,} samples on {e.n_distinct:,} distinct configurations, optimised in {self.seconds:.0f} s",
        ]
        if self.exact is not None:
            lines.append(self.compare(self.exact))
        return "\n".join(lines)

    def compare(self, exact: ExactGroundState | float) -> str:
        """One line: the exact energy, the relative error, and the difference in error bars."""
        energy = exact.energy if isinstance(exact, ExactGroundState) else exact
        difference = self.estimate.energy - energy
        bars = f" = {difference / self.estimate.error:+.1f} error bars" if self.estimate.error > 0 else ""
        relative = _relative(self.estimate.energy, energy)
        return f"exact {energy:.8f} {self.unit}: relative error {relative:.1e} ({difference:+.2e}{bars})"


class VMC:
    """Minimises the energy of a wavefunction by sampling it.

    Args:
        hamiltonian: the model, which states the sector.
        wavefunction: the variational state, on the same sector.
        sampler: scheme of the optimisation; by default chosen from the dimension.
        optimiser: configuration of the optimiser; stochastic reconfiguration by default.
        evaluation: sampler of the quoted energy; by default far more samples than a step has.
        unit: name of the energy unit, for print.

    Raises:
        ValueError: the wavefunction lives on another sector.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        sampler: Sampler | None = None,
        optimiser: OptimiserConfig | None = None,
        evaluation: Sampler | None = None,
        *,
        unit: str = "J",
    ) -> None:
        if wavefunction.hilbert != hamiltonian.hilbert:
            raise ValueError(
                f"the wavefunction lives on {wavefunction.hilbert}, the Hamiltonian on {hamiltonian.hilbert}: "
                "build the model with hamiltonian.hilbert."
            )
        self.hamiltonian = hamiltonian
        self.wavefunction = wavefunction
        self.device = next(wavefunction.parameters()).device
        self.sampler = sampler or training_sampler(hamiltonian.hilbert, self.device)
        self.optimiser = optimiser or StochasticReconfiguration()
        self.evaluation = evaluation or evaluation_sampler(self.device)
        self.unit = unit

    def config(self, run: RunConfig) -> dict[str, Any]:
        """Everything that the outcome depends on, as plain data; what the archive stores and resume rebuilds."""
        return {
            "hamiltonian": to_plain(self.hamiltonian),
            "model": to_plain(self.wavefunction.config),
            "sampler": to_plain(self.sampler),
            "optimiser": to_plain(self.optimiser),
            "evaluation": to_plain(self.evaluation),
            "run": to_plain(run),
            "unit": self.unit,
        }

    def run(
        self,
        steps: int = 200,
        *,
        archive: str | Path | None = None,
        exact: ExactGroundState | float | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Result:
        """Optimise, then evaluate the energy.

        Args:
            steps: optimisation steps in all.
            archive: HDF5 file of the run. If it exists and holds this very run, that is continued where it stopped; on
                the CPU it then equals an uninterrupted run bit for bit.
            exact: exact ground state or its energy, to show relative errors against and to store.
            progress: show a progress bar.
            options: other fields of RunConfig: seed, temperature, annealing.

        Raises:
            ArchiveError: the archive belongs to another run, is damaged, or cannot be written.
            NonFiniteError: an energy or a parameter is not finite; the last good state is in the archive.
        """
        run = RunConfig(steps=steps, **options)
        config = self.config(run)
        generator = torch.Generator(self.device).manual_seed(run.seed)
        optimiser = self.optimiser.build(self.wavefunction)
        file: Archive | None = None
        start = 0
        if archive is not None and Path(archive).exists():
            file = Archive.open(archive)
            _refuse_other_run(file, config)
            if file.step:
                start = file.step
                model, optimiser_state, generator_state = file.checkpoint()
                self.wavefunction.load_state_dict(model)
                optimiser.load_state_dict(optimiser_state)
                if len(generator_state) == len(generator.get_state()):
                    generator.set_state(generator_state)
                else:  # written on another kind of device: go on with fresh random numbers
                    generator.manual_seed(run.seed + start)
        elif archive is not None:
            file = Archive.create(archive, config=config, hamiltonian=str(self.hamiltonian), unit=self.unit)
        known = file.exact["energy"] if file is not None and file.exact is not None else None
        if file is not None and isinstance(exact, ExactGroundState) and exact.energy != known:
            file.write_exact(exact)
            file.flush()
        exact_energy = exact.energy if isinstance(exact, ExactGroundState) else known if exact is None else exact
        energy_infinity = infinite_temperature_energy(self.hamiltonian)

        rows: list[dict[str, float]] = []
        with tqdm(total=steps, initial=start, disable=not progress, unit="step", dynamic_ncols=True) as bar:
            for step in range(start, steps):
                begin = time.perf_counter()
                good = parameters_to_vector(self.wavefunction.parameters()).clone()
                samples = self.sampler.sample(self.wavefunction, generator)
                local = local_energies(self.hamiltonian, self.wavefunction, samples)
                estimate = estimate_energy(samples, local.values, energy_infinity=energy_infinity)
                temperature = run.temperature_at(step)
                update = None
                if math.isfinite(estimate.energy) and math.isfinite(estimate.variance):
                    free = local.values + 2 * temperature * samples.log_modulus
                    update = optimiser.step(samples, free, local.diagonal, step / steps)
                if update is None or not parameters_to_vector(self.wavefunction.parameters()).isfinite().all():
                    vector_to_parameters(good, self.wavefunction.parameters())
                    raise NonFiniteError(_what_to_try(f"step {step}", estimate, file))
                row = {
                    "step": step,
                    "energy": estimate.energy,
                    "error": estimate.error,
                    "variance": estimate.variance,
                    "v_score": estimate.v_score,
                    "samples": estimate.n_samples,
                    "distinct": estimate.n_distinct,
                    "perplexity": samples.perplexity,
                    "share_saved": local.share_saved,
                    "learning_rate": update.learning_rate,
                    "update_norm": update.update_norm,
                    "gradient_norm": update.gradient_norm,
                    "temperature": temperature,
                    "seconds": time.perf_counter() - begin,
                }
                rows.append(row)
                if file is not None:
                    file.record(
                        row, step + 1, self.wavefunction.state_dict(), optimiser.state_dict(), generator.get_state()
                    )
                    file.flush()
                bar.set_postfix_str(_status(estimate, exact_energy), refresh=False)
                bar.update()

        result = file.result if file is not None else None
        if result is None:
            state = exact if isinstance(exact, ExactGroundState) else None
            result = self._evaluate(generator, energy_infinity, file, state)
        history = (
            file.history if file is not None else {name: np.array([row[name] for row in rows]) for name in rows[0]}
        )
        return Result(
            estimate=result,
            n_sites=self.hamiltonian.hilbert.n_sites,
            unit=self.unit,
            history=history,
            seconds=float(history["seconds"].sum()),
            exact=exact_energy,
            archive=None if archive is None else Path(archive),
        )

    def _evaluate(
        self,
        generator: torch.Generator,
        energy_infinity: float,
        file: Archive | None,
        exact: ExactGroundState | None,
    ) -> EnergyEstimate:
        """The quoted energy, from fresh samples; stored with them and the observables of `nqs.measurements`."""
        samples = self.evaluation.sample(self.wavefunction, generator)
        local = local_energies(self.hamiltonian, self.wavefunction, samples)
        estimate = estimate_energy(samples, local.values, energy_infinity=energy_infinity)
        if not (math.isfinite(estimate.energy) and math.isfinite(estimate.variance)):
            raise NonFiniteError(_what_to_try("final evaluation", estimate, file))
        if file is not None:
            file.write_samples(samples)
            few, affordable = samples, measurements.affordable(self.hamiltonian.hilbert, self.device)
            if samples.n_distinct > affordable:
                few = TreeSampler(n_distinct=affordable).sample(self.wavefunction, generator)
            found = measurements.stored(samples, self.wavefunction, self.hamiltonian, few=few, exact=exact)
            for name, values in found.items():
                file.write_observable(name, values.cpu().numpy())
            file.write_result(estimate)
            file.flush()
        return estimate


def resume(
    archive: str | Path,
    *,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
    exact: ExactGroundState | float | None = None,
    progress: bool = True,
) -> Result:
    """Continue a run from its archive alone.

    Args:
        archive: HDF5 file that `VMC.run` wrote.
        types: classes of your own that the run was built from, by name.
        device: where to continue.
        exact, progress: as in `VMC.run`.

    Raises:
        ArchiveError: no readable archive.
        ValueError: the run was built from classes that nqs does not know; pass them in `types`.
    """
    config = Archive.open(archive).config
    known = known_types() | dict(types or {})
    built = {
        name: from_plain(config[name], known) for name in ("hamiltonian", "model", "sampler", "optimiser", "evaluation")
    }
    wavefunction = built["model"].build(built["hamiltonian"].hilbert, device)
    vmc = VMC(
        built["hamiltonian"],
        wavefunction,
        built["sampler"],
        built["optimiser"],
        built["evaluation"],
        unit=config["unit"],
    )
    run = {key: value for key, value in config["run"].items() if key != "type"}
    return vmc.run(archive=archive, exact=exact, progress=progress, **run)


def known_types() -> dict[str, type]:
    """The configuration classes of nqs, by name: what an archive may be rebuilt from."""
    modules = (hamiltonians, hilbert, lattice, models, samplers, optimisation)
    return {name: item for module in modules for name, item in vars(module).items() if isinstance(item, type)}


def with_error(value: float, error: float) -> str:
    """A number with its error in the last two digits: -7.459791(31); eight decimals where there is no error."""
    if not (error > 0 and math.isfinite(value) and math.isfinite(error)):
        return f"{value:.8f}"
    _, exponent = f"{error:.1e}".split("e")  # rounded to two digits first: 0.0996 is 0.10
    digits = 1 - int(exponent)
    if digits <= 0:
        return f"{value:.0f}({error:.0f})"
    if digits > MAX_DECIMALS:  # beyond what double precision holds
        return f"{value:.{MAX_DECIMALS}f}"
    return f"{value:.{digits}f}({error * 10**digits:.0f})"


def _relative(energy: float, exact: float) -> float:
    return (energy - exact) / abs(exact) if exact else math.nan


def _status(estimate: EnergyEstimate, exact: float | None) -> str:
    parts = [
        f"E = {with_error(estimate.energy, estimate.error)}",
        f"var {estimate.variance:.1e}",
        f"V {estimate.v_score:.1e}",
        f"{estimate.n_distinct:,} distinct",
    ]
    if exact is not None:
        parts.append(f"rel. error {_relative(estimate.energy, exact):.1e}")
    return ", ".join(parts)


def _refuse_other_run(file: Archive, config: dict[str, Any]) -> None:
    lines = differences(file.config, to_plain(config))
    if lines:
        raise ArchiveError(
            f"{file.path} holds another run; in the archive / now:\n  " + "\n  ".join(lines) + "\n"
            "Choose another archive, move this file away, or use the options it was started with."
        )


def _what_to_try(where: str, estimate: EnergyEstimate, file: Archive | None) -> str:
    kept = f"The state before it is in {file.path}." if file is not None else "The state before it was restored."
    return (
        f"{where}: energy {estimate.energy}, variance {estimate.variance}, or the update, is not finite. {kept} "
        "Try a smaller learning_rate or max_step, a larger diagonal_shift, or dtype='float64'."
    )
