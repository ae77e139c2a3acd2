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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
from nqs.archive.serialise import differences, to_plain
from nqs.estimators.energy import clipped, estimate_energy, infinite_temperature_energy
from nqs.estimators.estimate import EnergyEstimate, relative_error, with_error
from nqs.estimators.local_energy import local_energies
from nqs.exact.diagonalisation import ExactGroundState
from nqs.observables import measure as measurements
from nqs.optimisation.contract import Optimiser, OptimiserConfig
from nqs.optimisation.stochastic_reconfiguration import UNLIMITED, NaturalGradient
from nqs.protocols import Hamiltonian, Sampler, SymmetricWavefunction, Wavefunction
from nqs.recipes.samplers import SHARED_PREFIXES, evaluations
from nqs.recipes.stages import method
from nqs.recipes.steps import steps as steps_of
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.progress import Progress, Watcher
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import commuting
from nqs.vmc.guard import MIN_DAMPING, RECOVERY, NonFiniteError, _what_to_try
from nqs.vmc.result import Result
from nqs.vmc.stages import RunConfig, _Stage, with_share
from nqs.vmc.warm_up import WarmUp


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
        wavefunction.eval()  # with its whole symmetry
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
        chosen = method(wavefunction, self.device, sampler=sampler, given=optimiser, evaluation=evaluation)
        self.sampler, self.optimiser, self.evaluation = chosen.sampler, chosen.optimiser, chosen.evaluation
        self.evaluated_images = chosen.evaluated_images
        by_default = None if chosen.warm_up is None else WarmUp(**chosen.warm_up._asdict())
        self.warm_up = warm_up or by_default
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
            watch: objects that follow the run, such as `nqs.runtime.progress.TensorBoard`; they are closed at its end.
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
        return steps_of(self.wavefunction, self.device, exact=isinstance(self.sampler, ExhaustiveSampler))

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
                    state.optimiser.limit = UNLIMITED  # free energies rise as T falls
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
        orbits = evaluations(self.wavefunction) / images
        wanted = min([orbits, *(limit for limit in limits if limit is not None)]) * images / of_steps
        if images > 1 and isinstance(self.evaluation, ExhaustiveSampler):
            wanted /= SHARED_PREFIXES
        return row["seconds"] * max(1.0, wanted / row["distinct"])

    def _evaluate(
        self,
        generator: torch.Generator,
        energy_infinity: float,
        file: Archive | None,
        exact: ExactGroundState | None,
    ) -> EnergyEstimate:
        """The quoted energy, from fresh samples; stored with them and the observables of `nqs.observables.measure`."""
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


def _where_to_go_on(file: Archive | None, done: int, steps: int) -> str:
    if file is None:
        return f"stopped after step {done} of {steps}; nothing is saved, because the run has no archive."
    return f"{done} of {steps} steps are saved in {file.path}; repeat the command or resume to go on."
