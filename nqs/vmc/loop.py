"""Variational Monte Carlo: sample, local energies, update; with a progress bar, an archive, and a final evaluation."""

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
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, lattice_of, unit_of
from nqs.recipes.choices import ANNEALING
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.stages import method
from nqs.runtime.interruption import Interruption
from nqs.runtime.options import check_options
from nqs.runtime.progress import Progress, Watcher
from nqs.runtime.ranks import start
from nqs.runtime.together import CommonInterruption, CommonTimeLimit
from nqs.symmetry.of_hamiltonian import refuse_lower_symmetry
from nqs.vmc.affordable import fit_step_into
from nqs.vmc.evaluation import evaluate_best, reserve
from nqs.vmc.execution import Execution
from nqs.vmc.guard import Guard, NonFiniteError
from nqs.vmc.orthogonal import State, built_for, known_states
from nqs.vmc.pace import Clock, Pace
from nqs.vmc.provenance import InitialParameters
from nqs.vmc.record import keep_exact, keep_session, keep_step, open_archive, restore, result_of, row_of, status
from nqs.vmc.result import Result
from nqs.vmc.steps import RunningStage, make_step


class VMC:
    """Variational Monte Carlo with every part chosen by the user, or by `nqs.recipes` where it is not given.

    Args:
        hamiltonian: states the sector.
        wavefunction: the variational state, on the same sector.
        sampler: of the steps; by default chosen from the dimension.
        optimiser: by default exact steps for exhaustive sums, else stochastic reconfiguration, with the numbers of
            `nqs.recipes.optimiser`; `OptimiserOptions(...)` changes some of these.
        evaluation: of the final energy, a sampler or batches of it; by default far more samples than in a step, or the
            same exhaustive sum.
        warm_up: sampled steps before exhaustive sums; by default chosen with the sampler, none if a sampler is given.
        orthogonal_to: known states that the run stays orthogonal to, by penalties on the overlaps with them
            (nqs.optimisation.known_states): wavefunctions, archives of runs, or vectors. Energies are without the
            penalties; the overlaps are in the history (overlap_0, ..) and the result.
        penalty: weight of the penalties, in the unit of the energy; by default chosen (nqs.vmc.orthogonal).
        unit: printed name of the energy unit; that of the Hamiltonian by default.
        check: False for a Hamiltonian that `check_hamiltonian` has accepted before.

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
        check: bool = True,
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
        if check:
            check_hamiltonian(hamiltonian)
        check_wavefunction(wavefunction)
        if wavefunction.symmetry is not None:
            refuse_lower_symmetry(hamiltonian, wavefunction.symmetry)
        self.hamiltonian = hamiltonian
        self.wavefunction = wavefunction
        self.of_steps = wavefunction.for_steps()  # may average over a subgroup
        self.device = next(wavefunction.parameters()).device
        chosen = method(
            wavefunction, self.device, sampler=sampler, given=optimiser, evaluation=evaluation,
            lattice=lattice_of(hamiltonian),
        )  # fmt: skip
        self.sampler, self.optimiser = chosen.sampler, chosen.optimiser
        given = chosen.evaluation
        # One batch ends the evaluation whatever its error; `config` stores it as the sampler that was given.
        self.evaluation = given if isinstance(given, Evaluation) else Evaluation(sampler=given, batches=1, error=1.0)
        self.warm_up, self.default_steps = warm_up or chosen.warm_up, chosen.steps
        self.orthogonal_to = known_states(hamiltonian, orthogonal_to, penalty)
        self.known = built_for(self.orthogonal_to, wavefunction, self.device)
        self.unit = unit_of(hamiltonian) if unit is None else unit
        self.energy_scale = energy_scale(hamiltonian)
        self.given_parameters = InitialParameters(wavefunction)

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
            archive, progress, flush, watch, until, started_by: as in `nqs.vmc.execution.Execution`.
            exact: exact ground state or its energy, for relative errors; stored in the archive.
            minutes: stop early enough to evaluate the energy within that time; at least one step is made.
            initial: origin of the initial parameters, if not the seed of the model, in plain data: stored with them in
                the archive; by default a digest of parameters that were changed by hand.
            options: other fields of RunConfig: seed, temperature, annealing, total_minutes.

        Raises:
            ArchiveError: the archive belongs to another run, is damaged, not writable, or in use.
            NonFiniteError: an energy or a parameter is not finite, even with small steps; the last finite state is in
                the archive.
            Interrupted: SIGINT, SIGTERM or SIGHUP; it is a KeyboardInterrupt.
        """
        check_options(steps=steps, exact=exact, minutes=minutes, initial=initial)
        execution = Execution(
            archive=archive, progress=progress, flush=flush, watch=watch, until=until, started_by=started_by
        )
        unknown = set(options) - {"seed", "temperature", "annealing", "total_minutes"}
        if unknown:
            raise TypeError(
                f"run() has no option {', '.join(sorted(unknown))}: besides its own there are seed, temperature, "
                "annealing and total_minutes."
            )
        if steps is None and options.get("total_minutes") is None:
            steps = self.default_steps
        run = RunConfig(steps=steps, **({"annealing": ANNEALING} | options))
        config = self.config(run, self.given_parameters.of(archive) if initial is None else initial)
        return self.carry_out(run, config, execution, minutes=minutes, exact=exact)

    def carry_out(
        self,
        run: RunConfig,
        config: dict[str, Any],
        execution: Execution,
        *,
        minutes: float | None = None,
        exact: ExactGroundState | float | None = None,
    ) -> Result:
        """`run` with a given configuration: that of an archive to be resumed."""
        ranks, execution = start(self.device), execution.on_this_rank()
        limit, guard, pace = CommonTimeLimit(minutes), Guard(self.wavefunction.parameters()), Pace(run)
        generator = torch.Generator(self.device).manual_seed(run.seed)
        plan = stages(run, self.sampler, self.optimiser, self.warm_up)
        progress = execution.progress
        with ExitStack() as stack:
            # First, so that it also protects the last flush.
            interruption = CommonInterruption(stack.enter_context(Interruption(quiet=not ranks.is_first)))
            for watcher in execution.watch:
                stack.enter_context(closing(watcher))
            record = stack.enter_context(open_archive(execution, config, str(self.hamiltonian), self.unit))
            scale = record.config.get("energy_scale", 1.0)  # archives without it have absolute rates
            # That of the last step, whose optimiser the checkpoint holds.
            stage = next(stage for stage in plan if max(0, record.step - 1) in stage)
            running = self._started(stage, scale)
            restore(record, self.wavefunction, running, guard, pace, generator)
            ranks.from_first(*self.wavefunction.state_dict().values())
            if not record.step:
                guard.begin()
            if not pace.ends(record.step):
                fit_step_into(limit, running, stage.sampler, record.history, progress)
                keep_session(record, self.wavefunction, self.device, progress)
            exact_energy = keep_exact(record, exact)
            energy_infinity = infinite_temperature_energy(self.hamiltonian)
            clock = Clock(run, minutes, limit, record.history)
            check = SampleCheck(self.hamiltonian, self.wavefunction.symmetry)
            bar = stack.enter_context(Progress(pace.total, record.step, show=progress))
            while not pace.ends(step := record.step):
                clock.start()
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
                row = row_of(step, made, estimate, temperature=temperature, **clock.stepped())
                if pace.timed:
                    pace.measured(step + 1, clock.of_step, clock.left)
                keep_step(record, row, self.wavefunction, running, guard, pace, generator)
                record.flush_if_due(execution.flush or FlushPolicy())
                clock.written()
                bar.update(status(estimate, exact_energy), pace.total)
                if not execution.goes_on(row):
                    pace.stop(record.step)
                    record.keep("optimiser", pace.state_dict())
                interruption.check(record.how_to_continue())
                if not clock.limit.allows(clock.seconds + reserve(self, row, clock.limit)):
                    if pace.time_is_up(record.step):
                        record.keep("optimiser", pace.state_dict())
                    break

            if record.result_step is None or record.result_step != pace.total:
                known = exact if isinstance(exact, ExactGroundState) else None
                evaluate_best(
                    self, generator, record, guard, energy_infinity=energy_infinity, limit=clock.limit,
                    interruption=interruption, progress=progress, exact=known, state=running.sampler.state_dict(),
                )  # fmt: skip
            return result_of(record, self.hamiltonian, self.unit, exact_energy, pace.total)

    def _started(self, stage: Stage, scale: float) -> RunningStage:
        objective = penalised(stage.optimiser.objective(self.hamiltonian, scale, check=False), self.known)
        return RunningStage(self.of_steps, stage.sampler.build(self.of_steps), objective, stage.optimiser)
