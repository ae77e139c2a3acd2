"""What a user may choose of a run: the options of `nqs.recipes.plan`, most of those of `nqs.ground_state`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nqs.optimisation.stages import RunConfig
from nqs.protocols import OptimiserConfig, ReferencePhase, WavefunctionConfig
from nqs.recipes.model import NetworkOptions
from nqs.recipes.optimiser import OptimiserOptions
from nqs.runtime.device import checked_device, default_device
from nqs.runtime.interruption import TimeLimit
from nqs.runtime.options import check_fields, check_options

# Fraction of the steps of entropy annealing, where it is wanted. None by default (temperature 0): in the first half of
# the steps it made no difference (docs/design_questions.md).
ANNEALING = 0.5

Pretrain = Literal["none", "mean-field", "exact"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options of the method; what is not given is chosen by `nqs.recipes`.

    Attributes:
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
        minutes: time limit of a process, evaluation included; of `nqs.ground_state` also exact diagonalisation and the
            figure. It also gives the length of a sampled run, for large systems (nqs.recipes.samplers) ten minutes on a
            GPU and five on a CPU by default. Where sums are exhaustive a shorter run or a narrower network is chosen if
            the usual one would take longer, by an estimate.
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
        OptionError: an option of a wrong type.
        ValueError: one that is impossible whatever the Hamiltonian.
    """

    model: NetworkOptions | WavefunctionConfig | None = None
    reference: Literal["auto", "none"] | ReferencePhase = "auto"
    symmetry: Literal["auto", "none"] = "auto"
    distinct: int | None = None
    sampled: bool = False
    optimiser: OptimiserOptions | OptimiserConfig | None = None
    steps: int | None = None
    minutes: float | None = None
    total_minutes: float | None = None
    seed: int = 0
    temperature: float = 0.0
    annealing: float = ANNEALING
    initial: str | Path | None = None
    pretrain: Pretrain = "none"
    device: torch.device | str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        check_options(**vars(self))
        check_fields(self)
        self.run(self.steps)
        self.on_device()
        TimeLimit(self.minutes)

    def on_device(self) -> torch.device:
        """The device, with the default resolved."""
        return checked_device(str(default_device() if self.device is None else self.device))

    def run(self, steps: int | None, minutes: float | None = None) -> RunConfig:
        """Length and randomness of the run, for a number of steps or minutes."""
        return RunConfig(
            steps=steps, total_minutes=minutes, seed=self.seed, temperature=self.temperature, annealing=self.annealing
        )
