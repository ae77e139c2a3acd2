"""Variational Monte Carlo: sample, local energies, update; with a progress bar, an archive, and a final evaluation."""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from nqs.archive.archive import FlushPolicy
from nqs.archive.memory import MemoryArchive
from nqs.estimators.energy import estimate_energy, evaluated, infinite_temperature_energy
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.exact.diagonalisation import ExactGroundState
from nqs.observables import measure as measurements
from nqs.optimisation.stages import RunConfig, Stage, WarmUp, stages
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, unit_of
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.stages import method
from nqs.recipes.steps import evaluation_seconds
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.progress import Progress, Watcher
from nqs.samplers import TreeSampler
from nqs.symmetry.of_hamiltonian import refuse_lower_symmetry
from nqs.vmc.guard import Guard, NonFiniteError, is_finite
from nqs.vmc.record import keep_exact, keep_step, open_archive, restore, row_of, status
from nqs.vmc.result import Result
from nqs.vmc.steps import RunningStage, make_step


class VMC:
    """Variational Monte Carlo with every part chosen by the user, or by `nqs.recipes` where it is not given.

    Args:
        hamiltonian: states the sector.
        wavefunction: the variational state, on the same sector.
        sampler: of the steps; by default chosen from the dimension.
        optimiser: by default exact steps for exhaustive sums, else stochastic reconfiguration.
        evaluation: sampler of the final energy; by default far more samples than in a step, or the same exhaustive sum.
        warm_up: sampled steps before exhaustive sums; by default chosen with the sampler, none if a sampler is given.
        unit: printed name of the energy unit; that of the Hamiltonian by default.

    Raises:
        ValueError: the wavefunction lives on another sector, or has a symmetry that the Hamiltonian has not.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        sampler: SamplerConfig | None = None,
        optimiser: OptimiserConfig | OptimiserOptions | None = None,
        evaluation: SamplerConfig | None = None,
        *,
        warm_up: WarmUp | None = None,
        unit: str | None = None,
    ) -> None:
        if wavefunction.hilbert != hamiltonian.hilbert:
            raise ValueError(
                f"the wavefunction lives on {wavefunction.hilbert}, the Hamiltonian on {hamiltonian.hilbert}: "
                "build the model with hamiltonian.hilbert."
            )
        check_hamiltonian(hamiltonian)
        if wavefunction.symmetry is not None:
            refuse_lower_symmetry(hamiltonian, wavefunction.symmetry)
        self.hamiltonian = hamiltonian
        self.wavefunction = wavefunction
        self.of_steps = wavefunction.for_steps()  # may average over a subgroup
        self.device = next(wavefunction.parameters()).device
        chosen = method(wavefunction, self.device, sampler=sampler, given=optimiser, evaluation=evaluation)
        self.sampler, self.optimiser, self.evaluation = chosen.sampler, chosen.optimiser, chosen.evaluation
        self.warm_up, self.default_steps = warm_up or chosen.warm_up, chosen.steps
        self.unit = unit_of(hamiltonian) if unit is None else unit

    def config(self, run: RunConfig, initial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Configuration that determines the outcome; stored in the archive and rebuilt by `resume`.

        Args:
            initial: as in `run`.
        """
        parts = {
            "hamiltonian": self.hamiltonian,
            "model": self.wavefunction.config,
            "sampler": self.sampler,
            "optimiser": self.optimiser,
            "evaluation": self.evaluation,
            "run": run,
            "unit": self.unit,
            "warm_up": self.warm_up,
            "initial": initial,
        }
        return {name: part for name, part in parts.items() if part is not None}

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

        A state with non-finite energy or parameters is rolled back to the last finite one and the step is repeated with
        half its length, counted in the column "retries" of the history; after such a last step the energy is that of
        the state before it. SIGINT and SIGTERM end the run after the current step, with everything in the archive.

        Args:
            steps: total number of optimisation steps; chosen by nqs.recipes by default.
            archive: HDF5 file of the run. If it already holds this run, the run is resumed; on the CPU the result then
                equals that of an uninterrupted run bit for bit.
            exact: exact ground state or its energy, for relative errors; stored in the archive.
            progress: show a progress bar, or lines where there is no terminal.
            minutes: stop early enough to evaluate the energy within that time; at least one step is made.
            flush: how often the archive is written.
            watch: observers such as `nqs.runtime.progress.TensorBoard`; closed at the end.
            started_by: name of the script and its options, to keep in the archive.
            initial: origin of the initial parameters, if not the seed of the model, in plain data: part of the
                configuration. The archive then also stores the initial parameters.
            options: other fields of RunConfig: seed, temperature, annealing.

        Raises:
            ArchiveError: the archive belongs to another run, is damaged, not writable, or in use.
            NonFiniteError: an energy or a parameter is not finite, even with small steps; the last finite state is in
                the archive.
            Interrupted: SIGINT or SIGTERM; it is a KeyboardInterrupt.
        """
        run = RunConfig(steps=self.default_steps if steps is None else steps, **options)
        config = self.config(run, initial)
        return self.carry_out(
            run, config, archive=archive, exact=exact, progress=progress, minutes=minutes, flush=flush, watch=watch,
            started_by=started_by,
        )  # fmt: skip

    def carry_out(
        self,
        run: RunConfig,
        config: dict[str, Any],
        *,
        archive: str | Path | None,
        exact: ExactGroundState | float | None = None,
        progress: bool = True,
        minutes: float | None = None,
        flush: FlushPolicy | None = None,
        watch: Iterable[Watcher] = (),
        started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    ) -> Result:
        """`run` with a given configuration: that of an archive to be resumed."""
        limit, flush, watchers = TimeLimit(minutes), flush or FlushPolicy(), list(watch)
        assert run.steps is not None
        guard = Guard(self.wavefunction.parameters())
        generator = torch.Generator(self.device).manual_seed(run.seed)
        plan = stages(run, self.sampler, self.optimiser, self.warm_up)
        with ExitStack() as stack:
            interruption = stack.enter_context(Interruption())  # first, so that it also protects the last flush
            for watcher in watchers:
                stack.enter_context(closing(watcher))
            opened = open_archive(
                archive, config, hamiltonian=str(self.hamiltonian), unit=self.unit, started_by=started_by
            )
            record = stack.enter_context(opened)
            stage = next(stage for stage in plan if max(0, record.step - 1) in stage)
            running = self._started(stage)
            restore(record, self.wavefunction, running, guard, generator)
            exact_energy = keep_exact(record, exact)
            energy_infinity = infinite_temperature_energy(self.hamiltonian)
            bar = stack.enter_context(Progress(run.steps, record.step, show=progress))
            writing = 0.0
            for step in range(record.step, run.steps):
                begin = time.perf_counter()
                if step not in stage:
                    stage = next(stage for stage in plan if step in stage)
                    running = self._started(stage)
                    guard.new_stage()
                temperature = run.temperature_at(step / run.steps)
                try:
                    made = make_step(running, guard, generator, stage.progress(step), temperature=temperature)
                except NonFiniteError as error:
                    raise error.at(f"step {step}", record.where_last_state_is()) from None
                estimate = estimate_energy(made.samples, made.local.values, energy_infinity=energy_infinity)
                seconds = time.perf_counter() - begin
                row = row_of(step, made, estimate, temperature=temperature, seconds=seconds, archive_seconds=writing)
                keep_step(record, row, self.wavefunction, running, guard, generator)
                record.flush_if_due(flush)
                writing = time.perf_counter() - begin - seconds
                bar.update(status(estimate, exact_energy))
                for watcher in watchers:
                    watcher.step(row)
                interruption.check(record.how_to_continue())
                if not limit.allows(seconds + self._evaluation_seconds(row)):
                    break

            if record.result_step != run.steps:
                known = exact if isinstance(exact, ExactGroundState) else None
                self._evaluate_last_good(generator, energy_infinity, record, guard, known)
            assert record.result is not None
            return Result(
                estimate=record.result,
                n_sites=self.hamiltonian.hilbert.n_sites,
                unit=self.unit,
                history=record.history,
                seconds=float(record.history["seconds"].sum()),
                exact=exact_energy,
                archive=None if archive is None else Path(archive),
                steps_left=run.steps - record.step,
            )

    def _started(self, stage: Stage) -> RunningStage:
        objective = stage.optimiser.objective(self.hamiltonian)
        return RunningStage(self.of_steps, stage.sampler.build(self.of_steps), objective, stage.optimiser)

    def _evaluation_seconds(self, row: Mapping[str, float]) -> float:
        """Upper estimate of the time for the final evaluation, from a row of the history."""
        same = self.evaluation == self.sampler and self.wavefunction.n_images == self.of_steps.n_images
        if same and self.warm_up is None:
            return row["seconds"]
        return evaluation_seconds(self.wavefunction, self.of_steps, self.evaluation, row["distinct"], row["seconds"])

    def _evaluate_last_good(
        self,
        generator: torch.Generator,
        energy_infinity: float,
        record: MemoryArchive,
        guard: Guard,
        exact: ExactGroundState | None,
    ) -> None:
        """Final energy, of the state before the last step if that made it non-finite."""
        before = generator.get_state()
        try:
            self._evaluate(generator, energy_infinity, record, exact)
        except NonFiniteError:
            if guard.before is None:
                raise
            guard.restore(guard.before)
            record.roll_back(self.wavefunction.state_dict())
            generator.set_state(before)  # as if resumed from there
            self._evaluate(generator, energy_infinity, record, exact)

    def _evaluate(
        self,
        generator: torch.Generator,
        energy_infinity: float,
        record: MemoryArchive,
        exact: ExactGroundState | None,
    ) -> None:
        """Energy from new samples, stored with them and with the observables of `nqs.observables.measure`."""
        record.flush()  # save all steps before a long evaluation
        samples = self.evaluation.build(self.wavefunction).sample(generator)
        estimate = evaluated(self.hamiltonian, self.wavefunction, samples, energy_infinity=energy_infinity)
        if not is_finite(estimate.energy):
            found = NonFiniteError(estimate.energy, estimate.variance)
            raise found.at("final evaluation", record.where_last_state_is())
        record.write_samples(samples)
        if record.keeps_observables:
            samples, few, sites = measurements.samples_for(samples, self.wavefunction, generator, TreeSampler)
            measured = measurements.stored(
                samples, self.wavefunction, self.hamiltonian, few=few, permutations=sites, exact=exact
            )
            for name, values in measured.items():
                record.write_observable(name, values.cpu().numpy())
        record.write_result(estimate)
        record.flush()
