"""The energy of a state from new samples, batch by batch, until its error bar is small enough or time is up."""

import itertools
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from nqs.archive.memory import MemoryArchive
from nqs.chains import autocorrelation_time, drifts
from nqs.estimators.diagnostics import diagnostics
from nqs.estimators.energy import energy_with_unseen, estimate_energy, v_score
from nqs.estimators.estimate import EnergyEstimate, with_error
from nqs.estimators.local_energy import Energy, local_energies
from nqs.exact.diagonalisation import ExactGroundState
from nqs.hilbert import HilbertSpace
from nqs.observables import measure as measurements
from nqs.optimisation.known_states import Known, overlaps
from nqs.optimisation.stages import UNKNOWN, Evaluation, WarmUp
from nqs.protocols import Hamiltonian, SamplerConfig, Wavefunction, max_connected
from nqs.recipes.peaked import is_peaked
from nqs.recipes.samplers import is_autoregressive
from nqs.recipes.steps import EVALUATION_FRACTION, evaluation_seconds
from nqs.runtime.distributed import apart, communicator
from nqs.runtime.interruption import TimeLimit
from nqs.runtime.progress import Progress
from nqs.runtime.together import CommonInterruption
from nqs.samplers import TreeSampler
from nqs.samples import LocalEnergies, Samples, distinct
from nqs.vmc.affordable import OF_BATCH, affordable, last_draw
from nqs.vmc.guard import Guard, NonFiniteError, is_finite
from nqs.vmc.record import keep_overlaps

MARGIN = 1.3  # on the time of the next batch
LEAST_BATCHES = 2  # in steps: a batch takes about as long as a step, and so does what was not drawn in its error bar
OBSERVABLES = 0.25  # fraction of the time of the evaluation that is kept for observables
LEAST_SECONDS = 4.0  # for observables, whatever time is left
GROWTH = 1.1  # of the number of batches of Markov chains, from one energy to the next
CHEAP = 2**14  # amplitudes for configurations that were not drawn, whatever time is left
MAX_COUNT = 2**62  # samples of all batches: counts are 64-bit integers


class Parts(Protocol):
    """The parts of a run that its evaluation needs, see `nqs.VMC`."""

    hamiltonian: Hamiltonian
    wavefunction: Wavefunction
    of_steps: Wavefunction
    sampler: SamplerConfig
    evaluation: Evaluation
    warm_up: WarmUp | None
    known: list[Known]


class Evaluator:
    """Batches of samples of one state with their local energies.

    Attributes:
        seconds: of the last batch.
        rate: network evaluations in a second.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        sampler: SamplerConfig,
        energy_infinity: float,
    ) -> None:
        self.hamiltonian, self.wavefunction, self.energy_infinity = hamiltonian, wavefunction, energy_infinity
        self.sampler = sampler.build(wavefunction)
        self._parts: list[tuple[Samples, LocalEnergies]] = []
        self._estimates: list[EnergyEstimate] = []
        self._next = 1  # number of batches at which the energy of Markov chains is found anew
        self.seconds = self.rate = 0.0

    def add(self, generator: torch.Generator) -> EnergyEstimate:
        """One more batch; the energy from all.

        Raises:
            NonFiniteError: the energy is not finite.
        """
        begin = time.monotonic()
        samples = self.sampler.sample(generator)
        local = local_energies(self.hamiltonian, self.wavefunction, samples)
        estimate = estimate_energy(samples, local.values, energy_infinity=self.energy_infinity, noise=local.noise)
        self._parts.append((samples, local))
        self._estimates.append(estimate)
        (self.seconds,) = communicator().numbers(time.monotonic() - begin)
        self.rate = (samples.n_distinct + local.n_evaluated) / self.seconds
        if not is_finite(estimate.energy):
            raise NonFiniteError(estimate.energy, estimate.variance)
        if samples.chains is not None:  # the batches are parts of the same chains
            if len(self._parts) >= self._next:  # each time from all of them: not for every one of many
                joined, values = merged(self.hamiltonian.hilbert, self._parts)
                self._of_chains = estimate_energy(
                    joined, values.values, energy_infinity=self.energy_infinity, noise=values.noise
                )
                self._next = math.ceil(GROWTH * len(self._parts))
            return self._of_chains
        return pooled(self._estimates, self.hamiltonian.hilbert.n_sites, self.energy_infinity)

    @property
    def can_go_on(self) -> bool:
        """Whether more batches can be joined: draws with counts."""
        samples = self._parts[-1][0]
        return samples.counts is not None and (len(self._parts) + 1) * samples.n_samples < MAX_COUNT

    def all(self, seconds: float = math.inf) -> tuple[Samples, EnergyEstimate]:
        """The samples of all batches, equal ones together, and the energy from them.

        Args:
            seconds: time for the local energies of configurations that were not drawn.
        """
        each = self.seconds / self._parts[-1][0].n_distinct
        cheap = CHEAP // (max_connected(self.hamiltonian) * self.wavefunction.n_images)
        most = None if seconds == math.inf else max(cheap, int(seconds / max(each, 1e-9)))
        samples, local = merged(self.hamiltonian.hilbert, self._parts)
        energy = energy_with_unseen(
            self.hamiltonian, self.wavefunction, samples, local.values, energy_infinity=self.energy_infinity,
            noise=local.noise, most=most,
        )  # fmt: skip
        return samples, energy


def pooled(estimates: Sequence[EnergyEstimate], n_dof: int, energy_infinity: float) -> EnergyEstimate:
    """The energy from independent batches, by their numbers of samples; distinct ones are counted batch by batch."""
    if len(estimates) == 1:
        return estimates[0]
    total = sum(one.n_samples for one in estimates)
    shares = [one.n_samples / total for one in estimates]
    energy = sum(share * one.energy for share, one in zip(shares, estimates, strict=True))
    variance = sum(
        share * (one.variance + (one.energy - energy) ** 2) for share, one in zip(shares, estimates, strict=True)
    )
    return EnergyEstimate(
        energy=energy,
        error=math.hypot(*(share * one.error for share, one in zip(shares, estimates, strict=True))),
        variance=variance,
        v_score=v_score(energy, variance, n_dof, energy_infinity),
        n_samples=total,
        n_distinct=sum(one.n_distinct for one in estimates),
    )


def merged(hilbert: HilbertSpace, parts: Sequence[tuple[Samples, LocalEnergies]]) -> tuple[Samples, LocalEnergies]:
    """Independent draws, or successive parts of Markov chains, as one: equal configurations together, counts added.

    Raises:
        ValueError: several draws without counts, which cannot be joined.
    """
    if len(parts) == 1:
        return parts[0]
    if any(samples.counts is None for samples, _ in parts):
        raise ValueError("several batches can be joined only if they are independent draws, which have counts.")

    def joined(of: int, name: str) -> torch.Tensor:
        return torch.cat([getattr(part[of], name) for part in parts])

    first, classes = distinct(hilbert, joined(0, "configurations"))
    counts = torch.zeros_like(first).index_add_(0, classes, joined(0, "counts"))
    one = parts[0][0]
    samples = replace(
        one,
        configurations=joined(0, "configurations")[first],
        weights=counts.double() / counts.sum(),
        log_modulus=joined(0, "log_modulus")[first],
        phase=joined(0, "phase")[first],
        counts=counts,
        probability=None if one.probability is None else joined(0, "probability")[first],
        **({} if one.chains is None else joined_chains([samples for samples, _ in parts], classes)),
    )
    values, noise = joined(1, "values")[first], None
    if parts[0][1].noise is not None:  # independent draws of elements, averaged over the batches
        share = joined(0, "counts").double() / counts[classes]
        values = torch.zeros_like(values).index_add_(0, classes, share * joined(1, "values"))
        terms = share.square()[:, None] * joined(1, "noise")
        noise = torch.zeros_like(terms[first]).index_add_(0, classes, terms)
    local = LocalEnergies(
        values=values,
        noise=noise,
        diagonal=joined(1, "diagonal")[first],
        n_connected=sum(part.n_connected for _, part in parts),
        n_evaluated=sum(part.n_evaluated for _, part in parts),
    )
    return samples, local


def joined_chains(parts: Sequence[Samples], classes: torch.Tensor) -> dict[str, Any]:
    """Fields of the samples of chains whose parts follow each other; `classes`: of their distinct configurations."""
    starts = itertools.accumulate((part.n_distinct for part in parts[:-1]), initial=0)
    rows = [start + part.chains for start, part in zip(starts, parts, strict=True) if part.chains is not None]
    log_modulus = torch.cat([part.log_modulus[part.chains] for part in parts if part.chains is not None])
    times = torch.stack([torch.as_tensor(part.autocorrelation_time, dtype=torch.float64) for part in parts])
    of_all = autocorrelation_time(log_modulus[..., None]).cpu()
    return {
        "chains": classes[torch.cat(rows)],
        "autocorrelation_time": math.nan if drifts(log_modulus) else torch.cat([times, of_all]).max().item(),
        "acceptance": sum(part.acceptance or 0.0 for part in parts) / len(parts),
    }


def reserve(vmc: Parts, row: Mapping[str, float], limit: TimeLimit) -> float:
    """Seconds to be kept for the evaluation, from a row of the history."""
    config = vmc.evaluation
    same = config.sampler == vmc.sampler and vmc.wavefunction.n_images == vmc.of_steps.n_images
    if same and vmc.warm_up is None and config.batches == 1:
        return row["seconds"]
    if config.batches > 1:
        if limit.seconds == math.inf:
            return 0.0
        return max(EVALUATION_FRACTION * limit.seconds, LEAST_BATCHES * row["seconds"])
    # Markov chains evaluate each sample about once a site on the way to it.
    evaluated = (
        row["distinct"] if is_autoregressive(vmc.wavefunction) else row["samples"] * vmc.hamiltonian.hilbert.n_sites
    )
    return evaluation_seconds(vmc.wavefunction, vmc.of_steps, config.sampler, evaluated, row["seconds"])


def evaluate_best(
    vmc: Parts,
    generator: torch.Generator,
    record: MemoryArchive,
    guard: Guard,
    *,
    energy_infinity: float,
    limit: TimeLimit,
    interruption: CommonInterruption,
    progress: bool,
    exact: ExactGroundState | None,
    target: float | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Final energy, stored with its samples and observables.

    It is that of the last state; of the state before it, if the last step made the energy non-finite; or of the best
    earlier state that the steps have seen, or of the one that they started from, if a first batch of each says so.

    Args:
        target: error bar at which it ends, in the unit of the energy; by default that of the configuration.
        state: of the sampler of the steps, from which one of the same kind starts warm.
    """
    record.save()  # save all steps before a long evaluation
    before, config = generator.get_state(), vmc.evaluation

    energies = Energy(vmc.hamiltonian)
    images = vmc.wavefunction.n_images / vmc.of_steps.n_images
    known = last_draw(record.history, images) if limit.left <= 0 else None  # no time is left to measure a draw
    sampler = affordable(config.sampler, vmc.wavefunction, energies, limit, generator.device, OF_BATCH, known)

    def evaluator() -> Evaluator:
        new = Evaluator(vmc.hamiltonian, vmc.wavefunction, sampler, energy_infinity)
        # Samplers of independent draws have nothing to take over.
        if state and type(sampler) is type(vmc.sampler) and (warm_start := getattr(new.sampler, "warm_start", None)):
            warm_start(state, generator)
        return new

    found = evaluator()
    try:
        estimate = found.add(generator)
    except NonFiniteError as error:
        if guard.before is None:
            raise error.at("final evaluation", record.where_last_state_is()) from None
        guard.restore(guard.before)
        record.roll_back(vmc.wavefunction.state_dict())
        generator.set_state(before)  # as if resumed from there
        found = evaluator()
        estimate = found.add(generator)
    for other in _others(vmc, guard, generator.device) if config.batches > 1 else ():
        last = guard.current()
        guard.restore(other)
        earlier = evaluator()
        energy = earlier.add(generator)
        if energy.energy < estimate.energy:
            found, estimate = earlier, energy
            record.keep("model", vmc.wavefunction.state_dict())
        else:
            guard.restore(last)
    kept = OBSERVABLES * EVALUATION_FRACTION * limit.seconds
    small = config.error * abs(estimate.energy - energy_infinity) if target is None else target
    timed = limit.seconds < math.inf
    many = config.batches if config.batches < UNKNOWN and not timed else None
    with Progress(many, 1, show=progress and config.batches > 1, unit="batch") as bar:
        for batch in range(1, config.batches + 1):
            record.write_result(estimate)
            enough = batch == config.batches or estimate.error <= small
            if enough or not found.can_go_on or not limit.allows(MARGIN * found.seconds + kept):
                break
            if interruption.number is not None:
                record.save()  # what there is so far is the result
                interruption.check(f"the energy from {estimate.n_samples:,} samples is kept; nqs evaluate refines it.")
            estimate = found.add(generator)
            left = limit.left - kept if timed else None
            bar.update(f"E = {with_error(estimate.energy, estimate.error)}", seconds_left=left)
    samples, estimate = found.all(max(limit.left, 0.0))
    record.write_result(estimate)
    record.write_samples(samples)
    ranks = communicator()
    if record.keeps_observables and ranks.is_first:
        record.write_diagnostics(diagnostics(samples, vmc.wavefunction))
    if vmc.known:
        keep_overlaps(record, overlaps(vmc.known, vmc.wavefunction, samples))
    record.save()
    if not record.keeps_observables:
        return
    left = limit.left
    # Rank 0 has one GPU: its part of the rate of all.
    fits = None if left == math.inf else found.rate * max(left, LEAST_SECONDS) / ranks.size
    if ranks.is_first:
        if progress and ranks.size > 1:
            print(f"rank 0 of {ranks.size} measures the observables", file=sys.stderr)
        with apart():
            _measure(vmc, generator, record, samples, fits, exact, progress)
        record.save()
    ranks.decided(True)  # the archive is complete when any rank goes on


def _others(vmc: Parts, guard: Guard, device: torch.device) -> list[torch.Tensor]:
    """Parameters of states that may lie below the last one: the best of the steps, and the start.

    Steps from a good start may raise the energy. Few steps from a list do by configurations that were not drawn, which
    their energies do not show: H2O in STO-3G from -75.015515 to -75.0121 Hartree in four steps of 195 determinants.
    Determinants of a charge-density wave (t-V on 4x6 sites, half filling, V = 10) have few distinct samples: from
    -1.587 to -1.26(5) in 277 steps.
    """
    found = [guard.better()]
    if not vmc.known:  # else the lowest state is not the one wanted
        config, hilbert = vmc.wavefunction.config, vmc.hamiltonian.hilbert
        peaked = is_peaked(vmc.of_steps)
        found.append(Guard(config.build(hilbert, device).parameters()).current() if peaked else guard.start)
    return [parameters for parameters in found if parameters is not None]


def _measure(
    vmc: Parts,
    generator: torch.Generator,
    record: MemoryArchive,
    samples: Samples,
    fits: float | None,
    exact: ExactGroundState | None,
    progress: bool,
) -> None:
    """Observables; their failure costs nothing else.

    Args:
        fits: number of network evaluations that the remaining time allows; None: no limit.
    """
    connected = None if fits is None else int(fits / 2)
    if connected is not None and connected < max_connected(vmc.hamiltonian):
        record.write_state_names(vmc.hamiltonian.hilbert.state_names)
        if progress:
            print("no time is left for the observables: nqs evaluate measures them", file=sys.stderr)
        return
    try:
        samples, few, sites = measurements.samples_for(
            samples, vmc.wavefunction, generator, TreeSampler, connected=connected
        )
        measured = measurements.stored(
            samples, vmc.wavefunction, vmc.hamiltonian, few=few, permutations=sites, exact=exact
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        warnings.warn(f"the energy is stored, but the observables could not be measured: {error}", stacklevel=2)
        return
    for name, values in measured.items():
        record.write_observable(name, values.cpu().numpy())
    record.write_state_names(vmc.hamiltonian.hilbert.state_names)
