"""Variational Monte Carlo: sample, local energies, update; with a progress bar, an archive, and a final evaluation.

With entropy annealing the optimiser minimises the free energy <H> + T <log |psi|^2>, T falling linearly to zero, which
keeps the state from settling on few configurations early (Hibat-Allah et al., Nat. Mach. Intell. 3, 952 (2021),
arXiv:2101.10154). With clipping the optimiser sees local energies without their far outliers. Energies of the history
and quoted ones never contain either.
"""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs import hamiltonians, hilbert, lattice, measurements, models, optimisation, recipes, samplers, symmetry
from nqs.archive import Archive, ArchiveError, FlushPolicy
from nqs.estimates import EnergyEstimate, relative_error, with_error
from nqs.exact import ExactGroundState
from nqs.interruption import Interruption, TimeLimit
from nqs.local_energy import local_energies
from nqs.notebook import html_table
from nqs.optimisation import NaturalGradient, Optimiser, OptimiserConfig, StochasticReconfiguration
from nqs.progress import Progress, Watcher
from nqs.protocols import Hamiltonian, Sampler, SymmetricWavefunction, Wavefunction
from nqs.samplers import ExhaustiveSampler
from nqs.serialise import differences, from_plain, to_plain
from nqs.statistics import clipped, estimate_energy, infinite_temperature_energy
from nqs.symmetry import Symmetry, commuting
from nqs.warm_up import WarmUp

MIN_DAMPING = 2.0**-5  # of the update after a state that was not finite: five halvings
RECOVERY = 1.1  # growth of the damping factor with every good step


class NonFiniteError(FloatingPointError):
    """An energy or a parameter became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and randomness of a run.

    Attributes:
        steps: optimisation steps in all; None: chosen from the problem.
        seed: of the samples.
        temperature: T of entropy annealing at the start, in the Hamiltonian's unit; 0 for none.
        annealing: share of the steps over which T falls to zero.
        clip: local energies further from their median than so many median absolute deviations are moved there, for the
            update alone; None for none. The column "clipped" of the history has the share of the weight. The natural
            gradient bounds what an outlier does on its own; where it was tried, clipping made it slower (README).
        first_samples: share of the sampler's n_distinct or n_samples that the first step has; it grows geometrically to
            1 at the last step. Saves time where a step costs in proportion, at the price of noisier first steps.
    """

    steps: int | None = None
    seed: int = 0
    temperature: float = 0.0
    annealing: float = 0.5
    clip: float | None = None
    first_samples: float = 1.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least one step must be made.")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: it must be 0 (no annealing) or positive.")
        if not 0 < self.annealing <= 1:
            raise ValueError(f"annealing={self.annealing}: give the share of the steps, above 0 and at most 1.")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"clip={self.clip}: it must be a positive number of deviations, or None for no clipping.")
        if not 0 < self.first_samples <= 1:
            raise ValueError(
                f"first_samples={self.first_samples}: give the share of the samples, above 0 and at most 1."
            )

    def share_of_samples(self, step: int) -> float:
        """Geometric from `first_samples` in step 0 to 1 in the last one."""
        last = max(1, (self.steps or 1) - 1)
        return self.first_samples ** max(0.0, 1 - step / last)

    def temperature_at(self, progress: float) -> float:
        """Linear from `temperature` to 0, for a progress from 0 to 1."""
        return self.temperature * max(0.0, 1 - progress / self.annealing)


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
        steps_left: steps that a time limit left for another time.
    """

    estimate: EnergyEstimate
    n_sites: int
    unit: str
    history: dict[str, np.ndarray]
    seconds: float
    exact: float | None = None
    archive: Path | None = None
    steps_left: int = 0

    @property
    def relative_error(self) -> float:
        """(E - E_exact) / |E_exact|; nan where the exact energy is not known or 0."""
        return math.nan if self.exact is None else relative_error(self.estimate.energy, self.exact)

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
        if self.steps_left:
            lines.append(f"stopped at the time limit with {self.steps_left:,} steps left: resume to go on")
        return "\n".join(lines)

    def __repr__(self) -> str:
        e = self.estimate
        exact = "" if self.exact is None else f", relative error {self.relative_error:.1e}"
        left = f", {self.steps_left:,} steps left" if self.steps_left else ""
        energy = f"E = {with_error(e.energy, e.error)} {self.unit}"
        return f"<Result {energy}, variance {e.variance:.1e}, {e.n_distinct:,} distinct configurations{exact}{left}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        e = self.estimate
        rows = [
            ("E / site", f"{with_error(e.energy / self.n_sites, e.error / self.n_sites)} {self.unit}"),
            ("variance", f"{e.variance:.2e} {self.unit}²"),
            ("V-score", f"{e.v_score:.2e}"),
            ("samples", f"{e.n_samples:,} on {e.n_distinct:,} distinct configurations"),
            ("optimised in", f"{self.seconds:.0f} s"),
        ]
        if self.exact is not None:
            rows.append(("exact", self.compare(self.exact).removeprefix("exact ")))
        if self.archive is not None:
            rows.append(("archive", str(self.archive)))
        if self.steps_left:
            rows.append(("steps left", f"{self.steps_left:,}: resume to go on"))
        return html_table(f"E = {with_error(e.energy, e.error)} {self.unit}", rows)

    def compare(self, exact: ExactGroundState | float) -> str:
        """One line: the exact energy, the relative error, and the difference in error bars."""
        energy = exact.energy if isinstance(exact, ExactGroundState) else exact
        difference = self.estimate.energy - energy
        bars = f" = {difference / self.estimate.error:+.1f} error bars" if self.estimate.error > 0 else ""
        relative = relative_error(self.estimate.energy, energy)
        return f"exact {energy:.8f} {self.unit}: relative error {relative:.1e} ({difference:+.2e}{bars})"


@dataclass(kw_only=True)
class _State:
    """What goes from step to step besides the parameters.

    Attributes:
        damping: factor on the next update, 1 unless a state was not finite.
        last_good: parameters before the last update, whose energy was finite, (P,).
    """

    optimiser: Optimiser
    generator: torch.Generator
    damping: float = 1.0
    last_good: Tensor | None = None


class _Stage(NamedTuple):
    """Steps first, first + 1, ..., last - 1 of a run."""

    sampler: Sampler
    optimiser: OptimiserConfig
    first: int
    last: int

    def progress(self, step: int) -> float:
        return (step - self.first) / (self.last - self.first)


class VMC:
    """Minimises the energy of a wavefunction by sampling it.

    Args:
        hamiltonian: the model, which states the sector.
        wavefunction: the variational state, on the same sector.
        sampler: scheme of the optimisation; by default chosen from the dimension.
        optimiser: configuration of the optimiser; stochastic reconfiguration by default.
        evaluation: sampler of the quoted energy; by default far more samples than a step has, or all configurations
            where the steps have them too.
        warm_up: first steps of another kind; chosen with the sampler by default, none where a sampler is given.
        unit: name of the energy unit, for print.

    Raises:
        ValueError: the wavefunction lives on another sector, or has a symmetry that the Hamiltonian has not.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        sampler: Sampler | None = None,
        optimiser: OptimiserConfig | None = None,
        evaluation: Sampler | None = None,
        *,
        warm_up: WarmUp | None = None,
        unit: str = "J",
    ) -> None:
        wavefunction.eval()
        if isinstance(wavefunction, SymmetricWavefunction):
            _refuse_lower_symmetry(hamiltonian, wavefunction.symmetry)
        if wavefunction.hilbert != hamiltonian.hilbert:
            raise ValueError(
                f"the wavefunction lives on {wavefunction.hilbert}, the Hamiltonian on {hamiltonian.hilbert}: "
                "build the model with hamiltonian.hilbert."
            )
        self.hamiltonian = hamiltonian
        self.wavefunction = wavefunction
        self.device = next(wavefunction.parameters()).device
        by_default, self.evaluated_images = recipes.evaluation_sampler(wavefunction, self.device), wavefunction.images
        wavefunction.train()  # steps may average over fewer images
        self.sampler = sampler or recipes.training_sampler(wavefunction, self.device)
        exhaustive = isinstance(self.sampler, ExhaustiveSampler)
        self.optimiser = optimiser or StochasticReconfiguration()
        if isinstance(self.optimiser, StochasticReconfiguration):
            self.optimiser = self.optimiser.completed(exact=exhaustive, images=wavefunction.images)
        self.evaluation = evaluation or (self.sampler if exhaustive else by_default)
        self.warm_up = warm_up or (recipes.warm_up(wavefunction, self.device) if sampler is None else None)
        self.unit = unit

    def config(self, run: RunConfig, initial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Everything that the outcome depends on, as plain data; what the archive stores and resume rebuilds.

        Args:
            initial: as in `run`.

        Raises:
            ValueError: the number of samples is to grow, but the sampler has none.
        """
        if run.first_samples < 1:
            with_share(self.sampler, run.first_samples)
        return {
            "hamiltonian": to_plain(self.hamiltonian),
            "model": to_plain(self.wavefunction.config),
            "sampler": to_plain(self.sampler),
            "optimiser": to_plain(self.optimiser),
            "evaluation": to_plain(self.evaluation),
            "run": to_plain(run),
            "unit": self.unit,
        } | {
            name: to_plain(given)
            for name, given in (("warm_up", self.warm_up), ("initial", initial))
            if given is not None
        }

    def run(
        self,
        steps: int | None = None,
        *,
        archive: str | Path | None = None,
        exact: ExactGroundState | float | None = None,
        progress: bool = True,
        minutes: float | None = None,
        flush: FlushPolicy | None = None,
        watch: Iterable[Watcher] = (),
        started_by: tuple[str, Mapping[str, Any]] = ("", {}),
        initial: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result:
        """Optimise, then evaluate the energy.

        A state whose energy or parameters are not finite is rolled back to the last good one, and the step is made
        again, half as long; the column "retries" of the history counts that. Where the last step led to such a state,
        the energy is that of the state before it. SIGINT and SIGTERM end the run after the step in flight, with
        everything in the archive.

        Args:
            steps: optimisation steps in all; chosen from the problem by default.
            archive: HDF5 file of the run. If it exists and holds this very run, that is continued where it stopped; on
                the CPU it then equals an uninterrupted run bit for bit.
            exact: exact ground state or its energy, to show relative errors against and to store.
            progress: show a progress bar, or lines where there is no terminal.
            minutes: stop early enough to evaluate the energy within that time; at least one step is made.
            flush: how often the archive is written.
            watch: objects that follow the run, such as `nqs.progress.TensorBoard`; they are closed at its end.
            started_by: name of the script and its options, to keep in the archive.
            initial: what the parameters come from, if not from the model's seed, in plain data: a part of what the run
                is. Its archive then keeps the parameters of the start, too.
            options: other fields of RunConfig: seed, temperature, annealing, clip, first_samples.

        Raises:
            ArchiveError: the archive belongs to another run, is damaged, cannot be written, or another process does.
            NonFiniteError: an energy or a parameter is not finite, even with small steps; the last good state is in the
                archive.
            Interrupted: SIGINT or SIGTERM; it is a KeyboardInterrupt.
        """
        run = RunConfig(steps=self.default_steps if steps is None else steps, **options)
        return self._run(
            run,
            self.config(run, initial),
            archive=archive,
            exact=exact,
            progress=progress,
            minutes=minutes,
            flush=flush or FlushPolicy(),
            watch=list(watch),
            started_by=started_by,
        )

    @property
    def default_steps(self) -> int:
        """As many steps as this kind of problem needs."""
        return recipes.steps(self.wavefunction, self.device, exact=isinstance(self.sampler, ExhaustiveSampler))

    def _run(
        self,
        run: RunConfig,
        config: dict[str, Any],
        *,
        archive: str | Path | None,
        exact: ExactGroundState | float | None,
        progress: bool,
        minutes: float | None,
        flush: FlushPolicy,
        watch: list[Watcher],
        started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    ) -> Result:
        limit = TimeLimit(minutes)
        assert run.steps is not None
        with ExitStack() as stack:
            interruption = stack.enter_context(Interruption())  # first: the last flush is under its protection too
            for watcher in watch:
                stack.enter_context(closing(watcher))
            file = None
            if archive is not None:
                file = stack.enter_context(self._archive(Path(archive), config, started_by))
            done = file.step if file is not None and file.has_checkpoint else 0
            state = _State(
                optimiser=self._stage(max(0, done - 1), run).optimiser.build(self.wavefunction),
                generator=torch.Generator(self.device).manual_seed(run.seed),
            )
            if file is not None and "initial" in config and not file.has_checkpoint:
                file.start(
                    self.wavefunction.state_dict(), state.optimiser.state_dict(), state.generator.get_state()
                )  # else a resumed run could not know them
                file.flush()
            start = self._restore(state, file, run) if file is not None and file.has_checkpoint else 0
            known = file.exact["energy"] if file is not None and file.exact is not None else None
            if file is not None and isinstance(exact, ExactGroundState) and exact.energy != known:
                file.write_exact(exact)
                file.flush()
            exact_energy = exact.energy if isinstance(exact, ExactGroundState) else known if exact is None else exact
            energy_infinity = infinite_temperature_energy(self.hamiltonian)

            self.wavefunction.train()
            rows: list[dict[str, float]] = []
            writing, done = 0.0, start
            bar = stack.enter_context(Progress(run.steps, start, show=progress))
            for step in range(start, run.steps):
                row, estimate = self._step(step, run, state, energy_infinity, file)
                row["archive_seconds"] = writing
                rows.append(row)
                done = step + 1
                if file is not None:
                    begin = time.perf_counter()
                    file.record(
                        row,
                        done,
                        self.wavefunction.state_dict(),
                        state.optimiser.state_dict(),
                        state.generator.get_state(),
                        damping=state.damping,
                        last_good=state.last_good,
                    )
                    file.flush_if_due(flush)
                    writing = time.perf_counter() - begin
                bar.update(_status(estimate, exact_energy))
                for watcher in watch:
                    watcher.step(row)
                interruption.check(_where_to_go_on(file, done, run.steps))
                if not limit.allows(row["seconds"] + self._evaluation_seconds(row)):
                    break

            result = file.result if file is not None and file.result_step == run.steps else None
            if result is None:
                known_state = exact if isinstance(exact, ExactGroundState) else None
                before = state.generator.get_state()
                try:
                    result = self._evaluate(state.generator, energy_infinity, file, known_state)
                except NonFiniteError:
                    if state.last_good is None:
                        raise
                    vector_to_parameters(state.last_good.clone(), self.wavefunction.parameters())
                    if file is not None:
                        file.roll_back(self.wavefunction.state_dict())
                    state.generator.set_state(before)  # as if resumed from there
                    result = self._evaluate(state.generator, energy_infinity, file, known_state)
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
            steps_left=run.steps - done,
        )

    def _archive(self, path: Path, config: dict[str, Any], started_by: tuple[str, Mapping[str, Any]]) -> Archive:
        """The archive of this very run, to write to."""
        if not path.exists():
            script, options = started_by
            return Archive.create(
                path, config=config, hamiltonian=str(self.hamiltonian), unit=self.unit, script=script, options=options
            )
        file = Archive.open(path, "a")
        try:
            _refuse_other_run(file, config)
        except ArchiveError:
            file.close()
            raise
        return file

    def _restore(self, state: _State, file: Archive, run: RunConfig) -> int:
        """Bring back the state after the last recorded step, and return the number of finished steps."""
        model, optimiser, generator = file.checkpoint()
        self.wavefunction.load_state_dict(model)
        state.optimiser.load_state_dict(optimiser)
        if len(generator) == len(state.generator.get_state()):
            state.generator.set_state(generator)
        else:  # written on another kind of device: go on with fresh random numbers
            state.generator.manual_seed(run.seed + file.step)
        state.damping = file.damping
        if file.last_good is not None:
            state.last_good = torch.from_numpy(file.last_good).to(self.device)
        return file.step

    def _step(
        self, step: int, run: RunConfig, state: _State, energy_infinity: float, file: Archive | None
    ) -> tuple[dict[str, float], EnergyEstimate]:
        """One update of the parameters: its row of the history, and the energy before it.

        Raises:
            NonFiniteError: also after retries from the last good state; the parameters are those before the step.
        """
        begin = time.perf_counter()
        parameters = list(self.wavefunction.parameters())
        before = parameters_to_vector(parameters).detach().clone()
        assert run.steps is not None
        stage = self._stage(step, run)
        if step == stage.first > 0:
            state.optimiser = stage.optimiser.build(self.wavefunction)
        temperature = run.temperature_at(step / run.steps)
        share = run.share_of_samples(step)
        sampler = stage.sampler if share == 1 else with_share(stage.sampler, share)
        plain = temperature == 0 and run.clip is None  # the optimiser is to follow H itself
        retries, moved = 0, 0.0
        while True:
            good = parameters_to_vector(parameters).detach().clone()
            samples = sampler.sample(self.wavefunction, state.generator)
            elements = isinstance(sampler, ExhaustiveSampler) and state.optimiser.propagates and plain
            local = local_energies(self.hamiltonian, self.wavefunction, samples, elements=elements)
            estimate = estimate_energy(samples, local.values, energy_infinity=energy_infinity)
            if math.isfinite(estimate.energy) and math.isfinite(estimate.variance):
                values = local.values
                if run.clip is not None:
                    values, moved = clipped(values, samples.weights, run.clip)
                free = values + 2 * temperature * samples.log_modulus
                update = state.optimiser.step(samples, free, local.diagonal, stage.progress(step), local.elements)
                if temperature > 0 and isinstance(state.optimiser, NaturalGradient):
                    state.optimiser.limit = optimisation.UNLIMITED  # free energies rise as T falls
                new = parameters_to_vector(parameters).detach()
                if state.damping < 1:
                    new = good + state.damping * (new - good)
                    vector_to_parameters(new, parameters)
                if new.isfinite().all():
                    break
            elif state.last_good is not None:
                good = state.last_good.clone()
            state.damping /= 2
            if state.damping < MIN_DAMPING:
                vector_to_parameters(before, parameters)
                raise NonFiniteError(_what_to_try(f"step {step}", estimate, file, retries))
            vector_to_parameters(good, parameters)
            state.optimiser = stage.optimiser.build(self.wavefunction)  # without the momentum that led there
            retries += 1
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
            "learning_rate": state.damping * update.learning_rate,
            "update_norm": state.damping * update.update_norm,
            "gradient_norm": update.gradient_norm,
            "temperature": temperature,
            "retries": retries,
            "seconds": time.perf_counter() - begin,
        }
        if run.clip is not None:
            row["clipped"] = moved
        state.last_good = good
        state.damping = min(1.0, RECOVERY * state.damping)
        return row, estimate

    def _stage(self, step: int, run: RunConfig) -> _Stage:
        """What a step is made with."""
        assert run.steps is not None
        warm = 0 if self.warm_up is None else self.warm_up.steps(run.steps)
        if self.warm_up is not None and step < warm:
            return _Stage(self.warm_up.sampler, self.warm_up.optimiser, 0, warm)
        return _Stage(self.sampler, self.optimiser, warm, run.steps)

    def _evaluation_seconds(self, row: dict[str, float]) -> float:
        """Upper estimate of the time for the final evaluation, from a step: configurations cost less than there."""
        images, of_steps = self.evaluated_images, self.wavefunction.images
        if self.evaluation == self.sampler and self.warm_up is None and images == of_steps:
            return row["seconds"]
        limits = [getattr(self.evaluation, name, None) for name in ("n_distinct", "n_samples")]
        orbits = recipes.evaluations(self.wavefunction) / images
        wanted = min([orbits, *(limit for limit in limits if limit is not None)]) * images / of_steps
        if images > 1 and isinstance(self.evaluation, ExhaustiveSampler):
            wanted /= recipes.SHARED_PREFIXES
        return row["seconds"] * max(1.0, wanted / row["distinct"])

    def _evaluate(
        self,
        generator: torch.Generator,
        energy_infinity: float,
        file: Archive | None,
        exact: ExactGroundState | None,
    ) -> EnergyEstimate:
        """The quoted energy, from fresh samples; stored with them and the observables of `nqs.measurements`."""
        if file is not None:
            file.flush()  # all steps, before something that takes long
        self.wavefunction.eval()
        samples = self.evaluation.sample(self.wavefunction, generator)
        local = local_energies(self.hamiltonian, self.wavefunction, samples)
        estimate = estimate_energy(samples, local.values, energy_infinity=energy_infinity)
        if not (math.isfinite(estimate.energy) and math.isfinite(estimate.variance)):
            raise NonFiniteError(_what_to_try("final evaluation", estimate, file))
        if file is not None:
            file.write_samples(samples)
            samples, few, sites = measurements.samples_for(samples, self.wavefunction, generator)
            found = measurements.stored(
                samples, self.wavefunction, self.hamiltonian, few=few, permutations=sites, exact=exact
            )
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
    minutes: float | None = None,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
) -> Result:
    """Continue a run from its archive alone.

    Args:
        archive: HDF5 file that `VMC.run` wrote.
        types: classes of your own that the run was built from, by name.
        device: where to continue.
        exact, progress, minutes, flush, watch: as in `VMC.run`.

    Raises:
        ArchiveError: no readable archive, or no run in it.
        ValueError: the run was built from classes that nqs does not know; pass them in `types`.
    """
    file = Archive.open(archive)
    config = file.config
    if "initial" in config and not file.has_checkpoint:
        raise ArchiveError(f"{archive} was stopped before its initial parameters were kept: repeat the command.")
    built = rebuild(config, types)
    wavefunction = built["model"].build(built["hamiltonian"].hilbert, device)
    vmc = VMC(
        built["hamiltonian"],
        wavefunction,
        built["sampler"],
        built["optimiser"],
        built["evaluation"],
        warm_up=built.get("warm_up"),
        unit=config["unit"],
    )
    # The configuration of the archive itself: one of an older version lacks options that came later.
    return vmc._run(
        built["run"],
        config,
        archive=archive,
        exact=exact,
        progress=progress,
        minutes=minutes,
        flush=flush or FlushPolicy(),
        watch=list(watch),
    )


def rebuild(config: Mapping[str, Any], types: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The objects of a run from the configuration in its archive: hamiltonian, model, sampler, optimiser, ...

    Raises:
        ArchiveError: a part is missing, or its values do not fit.
        ValueError: a class that nqs does not know.
    """
    known = known_types() | {"RunConfig": RunConfig, "WarmUp": WarmUp} | dict(types or {})
    parts: tuple[str, ...] = ("hamiltonian", "model", "sampler", "optimiser", "evaluation", "run")
    missing = [name for name in (*parts, "unit") if name not in config]
    if missing:
        raise ArchiveError(f"the archive holds no run of nqs: its configuration lacks {', '.join(missing)}.")
    parts += tuple(name for name in ("warm_up",) if name in config)
    return {name: from_plain(config[name], known) for name in parts}


def with_share(sampler: Sampler, share: float) -> Sampler:
    """The sampler with that share of its distinct configurations, or of its samples.

    Raises:
        ValueError: it has no such number.
    """
    sizes = {name: getattr(sampler, name, None) for name in ("n_distinct", "n_samples")}
    wanted = {name: max(1, round(share * size)) for name, size in sizes.items() if isinstance(size, int)}
    if not wanted:
        raise ValueError(
            f"first_samples={share:g}, but {type(sampler).__name__} has no number of samples that could grow: leave "
            "first_samples at 1, or give a sampler with n_distinct or n_samples, such as TreeSampler(n_distinct=1000) "
            "(--distinct 1000)."
        )
    config: Any = sampler  # a dataclass: archives store samplers
    return replace(config, **wanted)


def _refuse_lower_symmetry(hamiltonian: Hamiltonian, symmetry: Symmetry) -> None:
    common = commuting(hamiltonian, symmetry)
    if common.order < symmetry.order:
        kept = set(zip(common.permutations, common.maps, strict=True))
        lost = next(g for g in zip(symmetry.permutations, symmetry.maps, strict=True) if g not in kept)
        raise ValueError(
            f"the wavefunction has {symmetry.order} symmetries, the Hamiltonian only {common.order} of them; not, for "
            f"example, the permutation {lost[0]} with the map {lost[1]}: use commuting(hamiltonian, symmetry) of "
            "nqs.symmetry."
        )


def known_types() -> dict[str, type]:
    """The configuration classes of nqs, by name: what an archive may be rebuilt from."""
    modules = (hamiltonians, hilbert, lattice, models, samplers, optimisation, symmetry)
    return {name: item for module in modules for name, item in vars(module).items() if isinstance(item, type)}


def _status(estimate: EnergyEstimate, exact: float | None) -> str:
    parts = [
        f"E = {with_error(estimate.energy, estimate.error)}",
        f"var {estimate.variance:.1e}",
        f"V {estimate.v_score:.1e}",
        f"{estimate.n_distinct:,} distinct",
    ]
    if exact is not None:
        parts.append(f"rel. error {relative_error(estimate.energy, exact):.1e}")
    return ", ".join(parts)


def _refuse_other_run(file: Archive, config: dict[str, Any]) -> None:
    lines = differences(file.config, to_plain(config))
    if lines:
        raise ArchiveError(
            f"{file.path} holds another run; in the archive / now:\n  " + "\n  ".join(lines) + "\n"
            "Choose another archive, move this file away, or use the options it was started with."
        )


def _what_to_try(where: str, estimate: EnergyEstimate, file: Archive | None, retries: int = 0) -> str:
    tried = f", not even from the state before and with the update halved {retries} times" if retries else ""
    kept = f"The state before it is in {file.path}." if file is not None else "The state before it was restored."
    return (
        f"{where}: energy {estimate.energy}, variance {estimate.variance}, or the update, is not finite{tried}. {kept} "
        "Try a smaller learning_rate or max_step, a larger diagonal_shift, or dtype='float64'."
    )


def _where_to_go_on(file: Archive | None, done: int, steps: int) -> str:
    if file is None:
        return f"stopped after step {done} of {steps}; nothing is saved, because the run has no archive."
    return f"{done} of {steps} steps are saved in {file.path}; repeat the command or resume to go on."
