"""Time from the start of a process to its first result, nqs against NetKet: a first VMC step, exact energies.

    python scripts/benchmark_start.py                    all cases, one process each, one after another
    python scripts/benchmark_start.py --cases first-step

The times include imports and compilation. NetKet runs in its fastest working setting, for the step a two-layer LSTM
with 32 features; both packages use Marshall's sign rule. NetKet refuses ten bosons on ten sites without a cutoff; the
case with at most four bosons per site is a smaller problem, for comparison.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from nqs import recipes
from nqs.cli.options import command_line

COMPILE = "from nqs import VMC, exact, hamiltonians, models, samplers"
OURS = {
    "first-step": f"""
import torch
from nqs.hamiltonians import Heisenberg
from nqs.lattice import chain
from nqs.estimators.local_energy import local_energies
from nqs.models import MarshallSign, TransformerConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.samplers import TreeSampler
h = Heisenberg(chain(20))
sign = MarshallSign(sublattice=tuple(site % 2 for site in range(20)))
psi = TransformerConfig(width=16, layers=2, heads=2, mlp_ratio=2, phase="zero", reference=sign).build(h.hilbert)
samples = TreeSampler(n_samples=1024).build(psi).sample(torch.Generator().manual_seed(0))
local = local_energies(h, psi, samples)
optimiser = {recipes.optimiser(exact=False)!r}
optimiser.build(psi).step(samples, local, 0.0)
print((samples.weights @ local.values.real).item())
""",
    "bose-hubbard-8": """
from nqs import exact
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
print(exact.ground_state(BoseHubbard(chain(8), 8, U=4.0)).energy)
""",
    "heisenberg-20": """
from nqs import exact
from nqs.hamiltonians import Heisenberg
from nqs.lattice import chain
print(exact.ground_state(Heisenberg(chain(20), 0.0)).energy)
""",
}
OURS["bose-hubbard-10"] = OURS["bose-hubbard-8"].replace("chain(8), 8", "chain(10), 10")
OURS["bose-hubbard-10-cutoff-4"] = OURS["bose-hubbard-8"].replace("chain(8), 8", "chain(10), 10, n_max=4")

NETKET = {
    "first-step": """
import netket as nk
g = nk.graph.Chain(20)
hi = nk.hilbert.Spin(0.5, 20)
h = nk.operator.Heisenberg(hi, g, J=0.25, sign_rule=True).to_jax_operator()
psi = nk.vqs.MCState(nk.sampler.ARDirectSampler(hi), nk.experimental.models.LSTMNet(hi, layers=2, features=32),
                     n_samples=1024, seed=0)
driver = nk.driver.VMC_SR(h, nk.optimizer.Sgd(0.02), diag_shift=1e-3, variational_state=psi, on_the_fly=False)
driver.run(1, show_progress=False)
print(psi.parameters is not None)
""",
    "bose-hubbard-8": """
import netket as nk
hi = nk.hilbert.Fock(n_max=8, N=8, n_particles=8)
print(nk.exact.lanczos_ed(nk.operator.BoseHubbard(hi, graph=nk.graph.Chain(8), U=4.0), k=1)[0])
""",
    "heisenberg-20": """
import netket as nk
hi = nk.hilbert.Spin(0.5, 20, total_sz=0)
print(nk.exact.lanczos_ed(nk.operator.Heisenberg(hi, nk.graph.Chain(20), J=0.25, sign_rule=False), k=1)[0])
""",
}
NETKET["bose-hubbard-10"] = NETKET["bose-hubbard-8"].replace("8", "10")
NETKET["bose-hubbard-10-cutoff-4"] = NETKET["bose-hubbard-10"].replace("n_max=10", "n_max=4")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cases and time limit."""

    cases: tuple[str, ...] = tuple(OURS)
    limit: float = 300.0  # time limit of each process, seconds


@dataclass(frozen=True)
class Run:
    wall: float
    cpu: float
    output: str


def run(program: str, limit: float) -> Run:
    """Run a program in a separate process; CPU seconds are summed over its threads."""
    import resource  # not on Windows

    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONWARNINGS="ignore")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is kept, as for an installed package
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=limit
        )
        text = done.stdout if done.returncode == 0 else done.stderr
        output = (text.strip().splitlines() or [""])[-1] if done.returncode == 0 else f"refused: {text.strip()[-60:]}"
    except subprocess.TimeoutExpired:
        output = f"stopped after {limit:.0f} s"
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output)


def main(config: Config) -> None:
    unknown = [case for case in config.cases if case not in OURS]
    if unknown:
        raise ValueError(f"cases {unknown} are unknown: choose among {', '.join(OURS)}.")
    report = {}
    print(f"{'':26}{'nqs':>22}{'NetKet':>22}{'ratio':>14}")
    print(f"{'':26}{'wall s':>11}{'CPU s':>11}{'wall s':>11}{'CPU s':>11}{'wall':>7}{'CPU':>7}")
    run(COMPILE, config.limit)
    for case in config.cases:
        ours, theirs = run(OURS[case], config.limit), run(NETKET[case], config.limit)
        print(f"{case:26}{ours.wall:11.1f}{ours.cpu:11.1f}{theirs.wall:11.1f}{theirs.cpu:11.1f}"
              f"{theirs.wall / ours.wall:7.1f}{theirs.cpu / ours.cpu:7.1f}   "
              f"{ours.output} / {theirs.output}")  # fmt: skip
        report[case] = {"nqs": vars(ours), "netket": vars(theirs)}
    print(json.dumps(report))


if __name__ == "__main__":
    command_line(main, Config, __doc__)
