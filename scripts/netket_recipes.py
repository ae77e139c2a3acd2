"""NetKet's own recipes on the systems of `scripts/large.py`, for a given time.

    python scripts/netket_recipes.py --problem heisenberg-10x10 --recipe vit --minutes 5 --output vit.json

Recipes, with the settings of NetKet's documentation where it has them: `rbm`, a restricted Boltzmann machine of real
parameters on spins with Marshall's signs and on bosons, complex ones where signs are to be learned; `gcnn`, a
group-convolutional network over the space group; `vit`, the vision transformer of the tutorial "Vision Transformer wave
function" (factored attention, patches of 2x2 spins); `jastrow`, two-body; `backflow`, the neural backflow of the
tutorial on lattice fermions. All with NetKet's stochastic reconfiguration (VMC_SR) and 4,096 samples of Markov chains.
The time includes compilation; the energy is evaluated afterwards with 16 times as many samples.

NetKet is imported here only. Its Heisenberg model is J sum sigma.sigma, four times sum S.S.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

RECIPES = {
    "heisenberg-6x6": ("rbm",),
    "heisenberg-10x10": ("rbm", "gcnn", "vit"),
    "j1j2-6x6": ("rbm", "gcnn", "vit"),
    "bh-8x8": ("rbm", "jastrow"),
    "hubbard-4x4": ("backflow",),
}
SAMPLES, CHAINS, CHUNK = 4096, 1024, 1024
EVALUATION = 16  # times as many samples
BLOCK = 5  # steps between two looks at the clock


@dataclass(frozen=True, kw_only=True)
class Config:
    """A problem, a recipe and a time."""

    problem: str
    recipe: str
    output: Path
    seed: int = 0
    minutes: float = 5.0
    samples: int = SAMPLES


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run: energies and variances of its steps at the seconds since its start, and the energy of its last state."""

    problem: str
    recipe: str
    seed: int
    parameters: int
    energy: float
    error: float
    variance: float
    seconds: list[float]
    energies: list[float]
    variances: list[float]


@dataclass(frozen=True, kw_only=True)
class System:
    """NetKet's objects."""

    graph: Any
    hilbert: Any
    operator: Any
    sampler: Any
    signs_known: bool


def system(problem: str, chains: int) -> System:
    """Operator of a problem, and a sampler of so many Markov chains."""
    import netket as nk

    match problem:
        case "heisenberg-6x6" | "heisenberg-10x10" | "j1j2-6x6":
            frustrated = problem == "j1j2-6x6"
            side = 10 if problem == "heisenberg-10x10" else 6
            graph = nk.graph.Square(side, max_neighbor_order=2 if frustrated else 1)
            hilbert = nk.hilbert.Spin(0.5, graph.n_nodes, total_sz=0)
            couplings = (
                {"J": [0.25, 0.125], "sign_rule": [True, False]} if frustrated else {"J": 0.25, "sign_rule": True}
            )
            operator = nk.operator.Heisenberg(hilbert, graph, **couplings).to_jax_operator()
            sampler = nk.sampler.MetropolisExchange(
                hilbert, graph=graph, d_max=2, n_chains=chains, sweep_size=graph.n_nodes
            )
            return System(graph=graph, hilbert=hilbert, operator=operator, sampler=sampler, signs_known=not frustrated)
        case "bh-8x8":
            graph = nk.graph.Square(8)
            hilbert = nk.hilbert.Fock(n_max=64, N=64, n_particles=64)
            operator = nk.operator.BoseHubbard(hilbert, graph, U=16.8, J=1.0).to_jax_operator()
            sampler = nk.sampler.MetropolisHamiltonian(hilbert, hamiltonian=operator, n_chains=chains)
            return System(graph=graph, hilbert=hilbert, operator=operator, sampler=sampler, signs_known=True)
        case "hubbard-4x4":
            graph = nk.graph.Square(4)
            hilbert = nk.hilbert.SpinOrbitalFermions(16, s=0.5, n_fermions_per_spin=(5, 5))
            operator = nk.operator.FermiHubbardJax(hilbert, t=1.0, U=8.0, graph=graph)
            sampler = nk.sampler.MetropolisFermionHop(hilbert, graph=graph, n_chains=chains)
            return System(graph=graph, hilbert=hilbert, operator=operator, sampler=sampler, signs_known=False)
    raise SystemExit(f"error: problem={problem!r}: choose among {', '.join(RECIPES)}.")


def model(recipe: str, of: System) -> tuple[Any, dict[str, float]]:
    """A network of NetKet or of its tutorials, with learning rate and shift."""
    import netket as nk

    real: Any = float if of.signs_known else complex
    match recipe:
        case "rbm":  # tutorial "Ground-State: Heisenberg model"
            return nk.models.RBM(alpha=1, param_dtype=real), {"learning_rate": 0.01, "shift": 0.01}
        case "jastrow":
            return nk.models.Jastrow(param_dtype=float), {"learning_rate": 0.01, "shift": 0.01}
        case "gcnn":  # tutorial "Ground-State: J1-J2 on a honeycomb with GCNN"
            symmetries = of.graph.space_group()
            return (
                nk.models.GCNN(symmetries=symmetries, layers=2, features=4, param_dtype=real),
                {"learning_rate": 0.02, "shift": 0.01},
            )
        case "vit":
            return vision_transformer(of), {"learning_rate": 0.0075, "shift": 1e-4}
        case "backflow":
            return neural_backflow(of), {"learning_rate": 0.05, "shift": 0.05}
    raise SystemExit(f"error: recipe={recipe!r}: choose among rbm, gcnn, vit, jastrow, backflow.")


def vision_transformer(of: System, layers: int = 4, width: int = 60, heads: int = 10, patch: int = 2) -> Any:
    """Translation-invariant factored attention over patches, as described in the tutorial (Rende, Viteritti, 2025)."""
    import jax.numpy as jnp
    from flax import linen as nn
    from netket.nn import log_cosh

    side = round(math.sqrt(of.graph.n_nodes))
    places = side // patch
    init = nn.initializers.xavier_uniform()
    dense = partial(nn.Dense, kernel_init=init, param_dtype=float)
    norm = partial(nn.LayerNorm, param_dtype=float)

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            weights = self.param("weights", init, (heads, places * places), float)
            row, column = jnp.divmod(jnp.arange(places * places), places)
            shift = (row - row[:, None]) % places * places + (column - column[:, None]) % places
            values = dense(width)(x).reshape(*x.shape[:-1], heads, width // heads)
            mixed = jnp.einsum("hij,...jhd->...ihd", weights[:, shift], values)
            return dense(width)(mixed.reshape(x.shape))

    class VisionTransformer(nn.Module):
        @nn.compact
        def __call__(self, spins: Any) -> Any:
            x = spins.reshape(*spins.shape[:-1], places, patch, places, patch)
            x = dense(width)(jnp.swapaxes(x, -3, -2).reshape(*spins.shape[:-1], places * places, patch * patch))
            for _ in range(layers):
                x = x + Attention()(norm()(x))
                x = x + dense(width)(nn.gelu(dense(4 * width)(norm()(x))))
            z = norm()(x.sum(-2))
            return log_cosh(norm()(dense(width)(z)) + 1j * norm()(dense(width)(z))).sum(-1)

    return VisionTransformer()


def neural_backflow(of: System) -> Any:
    """log det of orbitals that a perceptron shifts by the occupations (Luo and Clark, PRL 122, 226401 (2019))."""
    import jax.numpy as jnp
    import netket as nk
    from flax import linen as nn
    from netket.nn.masked_linear import default_kernel_init

    sites, electrons = of.hilbert.size, of.hilbert.n_fermions

    class Backflow(nn.Module):
        @nn.compact
        def __call__(self, n: Any) -> Any:
            orbitals = self.param("orbitals", default_kernel_init, (sites, electrons), float)
            shift = nn.Dense(sites * electrons, param_dtype=float)(jnp.tanh(nn.Dense(sites, param_dtype=float)(n)))
            all_rows = orbitals + shift.reshape(*n.shape[:-1], sites, electrons)
            occupied = jnp.argsort(-n, axis=-1, stable=True)[..., :electrons]
            return nk.jax.logdet_cmplx(jnp.take_along_axis(all_rows, occupied[..., None], axis=-2))

    return Backflow()


def main(config: Config) -> int:
    begin = time.monotonic()
    if config.recipe not in RECIPES.get(config.problem, ()):
        known = "; ".join(f"{name}: {', '.join(recipes)}" for name, recipes in RECIPES.items() if recipes)
        raise SystemExit(f"error: no recipe {config.recipe!r} for {config.problem!r}: there are {known}.")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU may be shared
    import jax
    import netket as nk

    of = system(config.problem, min(CHAINS, config.samples))
    network, settings = model(config.recipe, of)
    state = nk.vqs.MCState(
        of.sampler, network, n_samples=config.samples, n_discard_per_chain=4, seed=config.seed,
        chunk_size=min(CHUNK, config.samples),
    )  # fmt: skip
    complex_output = config.recipe in ("vit", "backflow") or not of.signs_known
    driver = nk.driver.VMC_SR(
        of.operator,
        nk.optimizer.Sgd(settings["learning_rate"]),
        diag_shift=settings["shift"],
        variational_state=state,
        mode="complex" if complex_output else "real",
    )
    print(f"{jax.devices()[0].device_kind}, {state.n_parameters:,} parameters", flush=True)
    seconds: list[float] = []
    energies: list[float] = []
    variances: list[float] = []

    def keep(_step: int, logged: dict[str, Any], _driver: Any) -> bool:
        energy = logged["Energy"]
        seconds.append(time.monotonic() - begin)
        energies.append(float(energy.mean.real))
        variances.append(float(energy.variance.real))
        return seconds[-1] < 60 * config.minutes and math.isfinite(energies[-1])

    while not seconds or (seconds[-1] < 60 * config.minutes and math.isfinite(energies[-1])):
        driver.run(BLOCK, callback=keep, show_progress=False)
    state.n_samples = EVALUATION * config.samples
    last = state.expect(of.operator)
    course = Course(
        problem=config.problem,
        recipe=config.recipe,
        seed=config.seed,
        parameters=int(state.n_parameters),
        energy=float(last.mean.real),
        error=float(last.error_of_mean),
        variance=float(last.variance.real),
        seconds=seconds,
        energies=energies,
        variances=variances,
    )
    config.output.write_text(json.dumps(asdict(course)))
    print(f"E = {course.energy:.6f} +- {course.error:.6f} after {len(energies)} steps")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Config, description=__doc__)))
