"""Group convolutions on the J1-J2 model of a square lattice: size, rate, and the power that samples are drawn with.

    python scripts/frustrated_study.py --minutes 4.8                          the choices of nqs.recipes, 6x6 sites
    python scripts/frustrated_study.py --minutes 4.8 --powers 0.5 0.75 1      |psi|, |psi|^1.5 and |psi|^2, one run each
    python scripts/frustrated_study.py --minutes 4.8 --width 10 --layers 4 --samples 4096
    python scripts/frustrated_study.py --shape 4 4 --device cpu --steps 90 --samples 256 --width 4 --layers 2

Everything that is not given is as nqs.recipes choose it. A line for each power and seed: parameters, steps, energy,
variance, relative error (4x4 and 6x6 sites with J2 = 0.5), smallest effective number of samples of a step after the
first tenth. Exact energies: exact diagonalisation (Schulz, Ziman, Poilblanc, J. Phys. I 6, 675 (1996)).
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import tyro

from nqs.estimators.estimate import with_error
from nqs.hamiltonians import Heisenberg
from nqs.lattice import square
from nqs.models import GroupConvolutionalConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.recipes import NetworkOptions, plan
from nqs.runtime.threads import using_threads
from nqs.samplers import MetropolisSampler
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result

EXACT = {((4, 4), 0.5): -8.457923351394848, ((6, 6), 0.5): -18.13715}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Variants; None: chosen by nqs.recipes."""

    shape: tuple[int, int] = (6, 6)
    J2: float = 0.5
    powers: tuple[float, ...] = ()  # of |psi|^2, that samples are drawn with
    seeds: tuple[int, ...] = (0,)
    width: int | None = None
    layers: int | None = None
    exponentials: int | None = None
    phases: float | None = None  # imaginary parts at the start, relative to the real ones
    samples: int | None = None  # Markov chains
    rate: float | None = None  # at the start
    final_rate: float | None = None
    final_shift: float | None = None
    minutes: float = 4.8  # of a run, evaluation included
    steps: int | None = None  # instead of as many as fit into the time
    device: str | None = None


def of_given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def run(config: Config, power: float | None, seed: int) -> tuple[Result, int]:
    """One run, and its number of parameters."""
    hamiltonian = Heisenberg(square(*config.shape), total_sz=0, J=(1.0, config.J2))
    wishes = NetworkOptions(network="group-convolutional", width=config.width, layers=config.layers, seed=seed)
    sampled = config.samples is None  # else sums over small sectors evaluate the energy, but make no steps
    found = plan(hamiltonian, model=wishes, sampled=sampled, distinct=config.samples, device=config.device)
    (stage,) = found.stages
    model, sampler, optimiser = found.model, stage.sampler, stage.optimiser
    assert isinstance(model, GroupConvolutionalConfig)
    assert isinstance(sampler, MetropolisSampler)
    assert isinstance(optimiser, StochasticReconfiguration)
    model = replace(model, **of_given(exponentials=config.exponentials, initial_phases=config.phases))
    sampler = replace(sampler, powers=sampler.powers if power is None else (power,))
    rates = of_given(
        learning_rate=config.rate,
        final_learning_rate=config.final_rate,
        final_diagonal_shift=config.final_shift,
    )
    psi = model.build(hamiltonian.hilbert, found.device)
    vmc = VMC(hamiltonian, psi, sampler, replace(optimiser, **rates), found.evaluation, check=False)
    length: dict[str, Any] = {"total_minutes": config.minutes, "minutes": config.minutes}
    if config.steps is not None:
        length = {"steps": config.steps}
    with using_threads(found.threads):
        return vmc.run(**length, seed=seed, progress=False), psi.n_parameters


def main(config: Config) -> int:
    exact = EXACT.get((config.shape, config.J2))
    print("| power | seed | parameters | steps | energy | variance | relative error | effective samples |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for power in config.powers or (None,):
        for seed in config.seeds:
            result, parameters = run(config, power, seed)
            found, history = result.estimate, result.history
            error = "" if exact is None else f"{(found.energy - exact) / abs(exact):.2e}"
            late = history["effective"][len(history["effective"]) // 10 :]
            cells = (
                "recipe" if power is None else f"{power:g}",
                str(seed),
                f"{parameters:,}",
                str(len(history["energy"])),
                with_error(found.energy, found.error),
                f"{found.variance:.3g}",
                error,
                f"{min(late):.0f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
