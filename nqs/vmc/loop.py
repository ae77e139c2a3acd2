"""Variational Monte Carlo: sample, local energies, update; with a progress bar, an archive, and a final evaluation."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from nqs.archive.archive import FlushPolicy
from nqs.estimators.energy import estimate_energy, infinite_temperature_energy
from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.hamiltonian_check import SampleCheck, check_hamiltonian
from nqs.estimators.wavefunction_check import check_wavefunction
from nqs.exact.diagonalisation import ExactGroundState
from nqs.optimisation.known_states import penalised
from nqs.optimisation.stages import Evaluation, RunConfig, Stage, WarmUp, stages
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, unit_of
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.samplers import distinct_of
from nqs.recipes.stages import method
from nqs.recipes.steps import EVALUATION_FRACTION
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.options import check_options
from nqs.runtime.progress import Progress, Watcher
from nqs.symmetry.of_hamiltonian import refuse_lower_symmetry
from nqs.vmc.affordable import OF_STEP, affordable
from nqs.vmc.evaluation import evaluate_best, reserve
from nqs.vmc.guard import Guard, NonFiniteError
from nqs.vmc.orthogonal import State, built_for, known_states
from nqs.vmc.pace import Pace
from nqs.vmc.provenance import given_parameters
from nqs.vmc.record import keep_exact, keep_session, keep_step, open_archive, overlaps_of, restore, row_of, status
from nqs.vmc.result import Result
from nqs.vmc.steps import RunningStage, make_step

TIMES = ("seconds", "archive_seconds")  # columns of the history that make up the time of a step


class VMC:
    """Variational Monte Carlo with every part chosen by the user, or by `nqs.recipes` where it is not given.

    Args:
        hamiltonian: states the sector.
        wavefunction: the variational state, on the same sector.
        sampler: of the steps; by default chosen from the dimension.
        optimiser: by default exact steps for exhaustive sums, else stochastic reconfiguration.
        evaluation: of the final energy, a sampler or batches of it; by default far more samples than in a step, or the
            same exhaustive sum.
        warm_up: sampled steps before exhaustive sums; by default chosen with the sampler, none if a sampler is given.
        orthogonal_to: known states that the run stays orthogonal to, by penalties on the overlaps with them
            (nqs.optimisation.known_states): wavefunctions, archives of runs, or vectors. Energies are without the
            penalties; the overlaps are in the history (overlap_0, ..) and the result.
        penalty: weight of the penalties, in the unit of the energy; by default chosen (nqs.vmc.orthogonal).
        unit: printed name of the energy unit; that of the Hamiltonian by default.

    Raises:
        ValueError: the wavefunction lives on another sector, is refused by `check_wavefunction`, or has a symmetry that
            the Hamiltonian has not; it learns no phases or is not normalised, or a known state is no normalised state
            of the sector; or `check_hamiltonian` refuses the Hamiltonian.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        sampler: SamplerConfig | None = None,
        optimiser: OptimiserConfig | OptimiserOptions | None = None,
        evaluation: SamplerConfig | Evaluation | None = None,
        *,
        warm_up: WarmUp | None = None,
        orthogonal_to: Sequence[State] = (),
        penalty: float | None = None,
        unit: str | None = None,
    ) -> None:
        check_options(
            hamiltonian=hamiltonian, wavefunction=wavefunction, sampler=sampler, optimiser=optimiser,
            evaluation=evaluation, warm_up=warm_up, penalty=penalty, unit=unit,
        )  # fmt: skip
        if wavefunction.hilbert != hamiltonian.hilbert:
            raise ValueError(
                f"the wavefunction lives on {wavefunction.hilbert}, the Hamiltonian on {hamiltonian.hilbert}: "
                "build the model with hamiltonian.hilbert."
            )
        check_hamiltonian(hamiltonian)
        check_wavefunction(wavefunction)
        if wavefunction.symmetry is not None:
            refuse_lower_symmetry(hamiltonian, wavefunction.symmetry)
        self.hamiltonian = hamiltonian
        self.wavefunction = wavefunction
        self.of_steps = wavefunction.for_steps()  # may average over a subgroup
        self.device = next(wavefunction.parameters()).device
        chosen = method(wavefunction, self.device, sampler=sampler, given=optimiser, evaluation=evaluation)
        self.sampler, self.optimiser = chosen.sampler, chosen.optimiser
        given = chosen.evaluation
        self.evaluation = given if isinstance(given, Evaluation) else Evaluation(sampler=given, batches=1, error=1.0)
        self.warm_up, self.default_steps = warm_up or chosen.warm_up, chosen.steps
        self.orthogonal_to = known_states(hamiltonian, orthogonal_to, penalty)
        self.known = built_for(self.orthogonal_to, wavefunction, self.device)
        self.unit = unit_of(hamiltonian) if unit is None else unit
        self.energy_scale = energy_scale(hamiltonian)
        self._begun: dict[Path | None, dict[str, str] | None] = {}  # given initial parameters, by archive

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
            "evaluation": self.evaluation if self.evaluation.batches > 1 else self.evaluation.sampler,
            "run": run,
            "unit": self.unit,
            "energy_scale": self.energy_scale,
            "warm_up": self.warm_up,
            "orthogonal_to": self.orthogonal_to or None,
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
        until: Callable[[Mapping[str, float]], bool] | None = None,
        started_by: tuple[str, Mapping[str, Any]] = ("", {}),
        initial: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result:
        """Optimise, then evaluate the energy.

        A state with non-finite energy or parameters is rolled back to the last finite one and the step is repeated with
        half its length, counted in the column "retries" of the history; after such a last step the energy is that of
        the state before it. SIGINT, SIGTERM and SIGHUP end the run after the current step, or the current batch of the
        evaluation, with everything in the archive.

        Args:
            steps: total number of optimisation steps; None: chosen by nqs.recipes, or, with `total_minutes`, as many as
                fit into that time.
            archive: HDF5 file of the run. If it already holds this run, the run is resumed; on the CPU the result then
                equals that of an uninterrupted run bit for bit.
            exact: exact ground state or its energy, for relative errors; stored in the archive.
            progress: show a progress bar, or lines where there is no terminal.
            minutes: stop early enough to evaluate the energy within that time; at least one step is made.
            flush: how often the archive is written.
            watch: observers such as `nqs.runtime.progress.TensorBoard`; closed at the end. One whose `step` returns
                False ends the run as `until` does.
            until: called with every row of the history; the run is finished and evaluated where it returns True.
            started_by: name of the script and its options, to keep in the archive.
            initial: origin of the initial parameters, if not the seed of the model, in plain data: part of the
                configuration; by default a digest of parameters that were changed by hand. The archive then also stores
                the initial parameters.
            options: other fields of RunConfig: seed, temperature, annealing; total_minutes for its `minutes`.

        Raises:
            ArchiveError: the archive belongs to another run, is damaged, not writable, or in use.
            NonFiniteError: an energy or a parameter is not finite, even with small steps; the last finite state is in
                the archive.
            Interrupted: SIGINT or SIGTERM; it is a KeyboardInterrupt.
        """
        check_options(
            steps=steps, archive=archive, exact=exact, progress=progress, minutes=minutes, flush=flush, watch=watch,
            until=until, initial=initial,
        )  # fmt: skip
        unknown = set(options) - {"seed", "temperature", "annealing", "total_minutes"}
        if unknown:
            raise TypeError(
                f"run() has no option {', '.join(sorted(unknown))}: besides its own there are seed, temperature, "
                "annealing and total_minutes."
            )
        time_of_run = options.pop("total_minutes", None)
        if steps is None and time_of_run is None:
            steps = self.default_steps
        run = RunConfig(steps=steps, minutes=time_of_run, **options)
        config = self.config(run, self._initial(archive) if initial is None else initial)
        return self.carry_out(
            run, config, archive=archive, exact=exact, progress=progress, minutes=minutes, flush=flush, watch=watch,
            until=until, started_by=started_by,
        )  # fmt: skip

    def _initial(self, archive: str | Path | None) -> Mapping[str, Any] | None:
        """`given_parameters` when the archive was begun: an interrupted step has changed them since."""
        key = Path(archive).resolve() if archive is not None else None
        if key is None or key not in self._begun or not key.exists():
            self._begun[key] = given_parameters(self.wavefunction)
        return self._begun[key]

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
        until: Callable[[Mapping[str, float]], bool] | None = None,
        started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    ) -> Result:
        """`run` with a given configuration: that of an archive to be resumed."""
        limit, flush, watchers = TimeLimit(minutes), flush or FlushPolicy(), list(watch)
        guard, pace = Guard(self.wavefunction.parameters()), Pace(run)
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
            scale = record.config.get("energy_scale", 1.0)  # archives without it have absolute rates
            running = self._started(stage, scale)
            restore(record, self.wavefunction, running, guard, pace, generator)
            if not pace.ends(record.step):
                self._fit_into(limit, running, stage, record.history, progress)
            note = None if pace.ends(record.step) else keep_session(record, self.wavefunction, self.device)
            if note is not None and progress:
                print(note, file=sys.stderr)
            exact_energy = keep_exact(record, exact)
            energy_infinity = infinite_temperature_energy(self.hamiltonian)
            bar = stack.enter_context(Progress(pace.total, record.step, show=progress))
            spent = sum(float(record.history[name].sum()) for name in TIMES if name in record.history)
            if run.minutes is not None and minutes is None:  # resumed without a limit: that of the run
                limit = TimeLimit(max(run.minutes - spent / 60, EVALUATION_FRACTION * run.minutes))
            check = SampleCheck(self.hamiltonian, self.wavefunction.symmetry)
            step, writing = record.step, 0.0
            while not pace.ends(step):
                begin = time.perf_counter()
                if step not in stage:
                    stage = next(stage for stage in plan if step in stage)
                    running = self._started(stage, scale)
                    guard.new_stage()
                temperature = run.temperature_at(pace.progress(step))
                try:
                    made = make_step(running, guard, generator, pace.of_stage(stage, step), temperature=temperature)
                except NonFiniteError as error:
                    raise error.at(f"step {step}", record.where_last_state_is()) from None
                estimate = estimate_energy(
                    made.samples, made.local.energies, energy_infinity=energy_infinity, noise=made.local.noise
                )
                check(made.samples.configurations)
                seconds = time.perf_counter() - begin
                row = row_of(step, made, estimate, temperature=temperature, seconds=seconds, archive_seconds=writing)
                step += 1
                spent += seconds + writing
                if run.minutes is not None:
                    of_run = 60 * run.minutes
                    left = min(limit.left, of_run - spent) - EVALUATION_FRACTION * of_run
                    pace.measured(step, seconds + writing, left)
                keep_step(record, row, self.wavefunction, running, guard, pace, generator)
                record.flush_if_due(flush)
                writing = time.perf_counter() - begin - seconds
                bar.update(status(estimate, exact_energy), pace.total)
                wanted = [watcher.step(row) is not False for watcher in watchers]
                if not all(wanted) or (until is not None and until(row)):
                    pace.stop(step)
                    record.keep("optimiser", pace.state_dict())
                interruption.check(record.how_to_continue())
                if not limit.allows(seconds + reserve(self, row, limit)):
                    break

            if record.result_step is None or record.result_step != pace.total:
                known = exact if isinstance(exact, ExactGroundState) else None
                evaluate_best(
                    self, generator, record, guard, energy_infinity=energy_infinity, limit=limit,
                    interruption=interruption, progress=progress, exact=known,
                    walkers=running.sampler.state_dict(),
                )  # fmt: skip
            assert record.result is not None
            return Result(
                estimate=record.result,
                n_sites=self.hamiltonian.hilbert.n_sites,
                unit=self.unit,
                history=record.history,
                seconds=float(record.history["seconds"].sum()),
                exact=exact_energy,
                overlaps=overlaps_of(record),
                archive=None if archive is None else Path(archive),
                steps_left=0 if pace.total is None else pace.total - record.step,
            )

    def _fit_into(
        self, limit: TimeLimit, running: RunningStage, stage: Stage, history: Mapping[str, Any], progress: bool
    ) -> None:
        """Draw fewer distinct configurations where a single step would take longer than the time that is left."""
        known = None
        if len(history.get("seconds", ())):
            known = float(history["seconds"][-1]), float(history["distinct"][-1])
        chosen = affordable(stage.sampler, self.of_steps, running.objective, limit, self.device, OF_STEP, known)
        if chosen != stage.sampler:
            running.sampler = chosen.build(self.of_steps)
            if progress:
                print(
                    f"{distinct_of(chosen)} instead of {distinct_of(stage.sampler)} distinct configurations in each "
                    f"step: {limit.left:.0f} s are left",
                    file=sys.stderr,
                )

    def _started(self, stage: Stage, scale: float) -> RunningStage:
        objective = penalised(stage.optimiser.objective(self.hamiltonian, scale), self.known)
        return RunningStage(self.of_steps, stage.sampler.build(self.of_steps), objective, stage.optimiser)
