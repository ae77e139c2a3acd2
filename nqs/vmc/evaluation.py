"""The energy of a state from new samples, batch by batch, until its error bar is small enough or time is up."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from nqs.archive.memory import MemoryArchive
from nqs.estimators.energy import energy_with_unseen, estimate_energy, v_score
from nqs.estimators.estimate import EnergyEstimate, with_error
from nqs.estimators.local_energy import local_energies
from nqs.exact.diagonalisation import ExactGroundState
from nqs.hilbert import HilbertSpace
from nqs.observables import measure as measurements
from nqs.optimisation.known_states import Known, overlaps
from nqs.optimisation.stages import UNKNOWN, Evaluation, WarmUp
from nqs.protocols import Hamiltonian, SamplerConfig, Wavefunction
from nqs.recipes.steps import EVALUATION_FRACTION, evaluation_seconds
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.progress import Progress
from nqs.samplers import TreeSampler
from nqs.samples import LocalEnergies, Samples, distinct
from nqs.vmc.guard import Guard, NonFiniteError, is_finite
from nqs.vmc.record import keep_overlaps

MARGIN = 1.3  # on the time of the next batch
LEAST_BATCHES = 2  # in steps: a batch takes about as long as a step, and so does what was not drawn in its error bar
OBSERVABLES = 0.25  # fraction of the time of the evaluation that is kept for observables
CONNECTED = 2**12  # connected configurations of observables that are allowed whatever time is left


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
        self, hamiltonian: Hamiltonian, wavefunction: Wavefunction, sampler: SamplerConfig, energy_infinity: float
    ) -> None:
        self.hamiltonian, self.wavefunction, self.energy_infinity = hamiltonian, wavefunction, energy_infinity
        self.sampler = sampler.build(wavefunction)
        self._parts: list[tuple[Samples, LocalEnergies]] = []
        self._estimates: list[EnergyEstimate] = []
        self.seconds = self.rate = 0.0

    def add(self, generator: torch.Generator) -> EnergyEstimate:
        """One more batch; the energy from all.

        Raises:
            NonFiniteError: the energy is not finite.
        """
        begin = time.monotonic()
        samples = self.sampler.sample(generator)
        local = local_energies(self.hamiltonian, self.wavefunction, samples)
        estimate = estimate_energy(samples, local.values, energy_infinity=self.energy_infinity)
        self._parts.append((samples, local))
        self._estimates.append(estimate)
        self.seconds = time.monotonic() - begin
        self.rate = (samples.n_distinct + local.n_evaluated) / self.seconds
        if not is_finite(estimate.energy):
            raise NonFiniteError(estimate.energy, estimate.variance)
        return pooled(self._estimates, self.hamiltonian.hilbert.n_sites, self.energy_infinity)

    @property
    def can_go_on(self) -> bool:
        """Whether more batches can be joined: independent draws."""
        return self._parts[-1][0].counts is not None

    def all(self) -> tuple[Samples, EnergyEstimate]:
        """The samples of all batches, equal ones together, and the energy from them."""
        samples, local = merged(self.hamiltonian.hilbert, self._parts)
        energy = energy_with_unseen(
            self.hamiltonian, self.wavefunction, samples, local.values, energy_infinity=self.energy_infinity
        )
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
    """Independent draws as one: equal configurations together, counts added.

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
    samples = Samples(
        configurations=joined(0, "configurations")[first],
        weights=counts.double() / counts.sum(),
        log_modulus=joined(0, "log_modulus")[first],
        phase=joined(0, "phase")[first],
        counts=counts,
    )
    local = LocalEnergies(
        values=joined(1, "values")[first],
        diagonal=joined(1, "diagonal")[first],
        n_connected=sum(part.n_connected for _, part in parts),
        n_evaluated=sum(part.n_evaluated for _, part in parts),
    )
    return samples, local


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
    return evaluation_seconds(vmc.wavefunction, vmc.of_steps, config.sampler, row["distinct"], row["seconds"])


def evaluate_best(
    vmc: Parts,
    generator: torch.Generator,
    record: MemoryArchive,
    guard: Guard,
    *,
    energy_infinity: float,
    limit: TimeLimit,
    interruption: Interruption,
    progress: bool,
    exact: ExactGroundState | None,
    target: float | None = None,
) -> None:
    """Final energy, stored with its samples and observables.

    It is that of the last state; of the state before it, if the last step made the energy non-finite; or of the best
    earlier state that the steps have seen, if a first batch of each says so.

    Args:
        target: error bar at which it ends, in the unit of the energy; by default that of the configuration.
    """
    record.save()  # save all steps before a long evaluation
    before, config = generator.get_state(), vmc.evaluation

    def evaluator() -> Evaluator:
        return Evaluator(vmc.hamiltonian, vmc.wavefunction, config.sampler, energy_infinity)

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
    other = guard.better()
    if other is not None and config.batches > 1:
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
    many = config.batches if config.batches < UNKNOWN else None
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
            bar.update(f"E = {with_error(estimate.energy, estimate.error)}")
    samples, estimate = found.all()
    record.write_result(estimate)
    record.write_samples(samples)
    if vmc.known:
        keep_overlaps(record, overlaps(vmc.known, vmc.wavefunction, samples))
    record.save()
    if record.keeps_observables:
        _measure(vmc, generator, record, samples, None if limit.left == math.inf else found.rate * limit.left, exact)
        record.save()


def _measure(
    vmc: Parts,
    generator: torch.Generator,
    record: MemoryArchive,
    samples: Samples,
    fits: float | None,
    exact: ExactGroundState | None,
) -> None:
    """Observables; their failure costs nothing else.

    Args:
        fits: number of network evaluations that the remaining time allows; None: no limit.
    """
    connected = None if fits is None else max(CONNECTED, int(fits / 2))
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
