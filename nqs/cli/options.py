"""What every script does around its Hamiltonian: common options, one call, result and figure.

`python scripts/NAME.py` and `nqs run NAME` are the same call of `command_line`.
"""

import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from nqs import driver
from nqs.archive.archive import FlushPolicy
from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.toml import command_line_flags, option_names, options_table, read_toml
from nqs.protocols import Hamiltonian, ReferencePhase
from nqs.recipes import NetworkOptions, OptimiserOptions, default_device
from nqs.runtime.progress import TensorBoard
from nqs.vmc.result import Result

Config = TypeVar("Config")
OF_THIS_CALL = {"of this call": True}  # metadata of options that a repeated run does not inherit
Hidden = tyro.conf.Suppress, tyro.conf.Fixed


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, whatever the Hamiltonian; `options: CommonOptions = field(default_factory=Options)` in a script."""

    model: NetworkOptions = field(default_factory=NetworkOptions)
    # signs of the ground state; auto: what is known of them, and a phase head learns the rest; none: it learns all
    reference: Literal["auto", "none"] = "auto"
    # work in the symmetry sector of the ground state, where that is known and pays off
    symmetry: Literal["auto", "none"] = "auto"
    distinct: int | None = None  # distinct configurations a step, without a symmetry; None: chosen from the dimension
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    steps: int | None = None  # optimisation steps in all; None: chosen from the problem
    seed: int = 0  # of the samples
    temperature: float = 0.0  # of entropy annealing at the start, in the Hamiltonian's unit; 0 for none
    annealing: float = 0.5  # fraction of the steps over which the temperature falls to zero
    # archive of another run whose parameters the model starts from: other couplings, or another lattice
    initial: Path | None = None
    # fit the model to a state before the first step: the determinant that gives its signs, or the exact ground state
    pretrain: Literal["none", "mean-field", "exact"] = "none"
    device: str = field(default_factory=default_device)
    # of the CPU; None: one for small steps, else as PyTorch chooses (one a core)
    threads: int | None = field(default=None, metadata=OF_THIS_CALL)
    exact_limit: int = driver.EXACT_LIMIT  # diagonalise exactly up to this dimension
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    # HDF5 file, the figure beside it; None: results/, named after the options
    archive: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # time for all: a shorter run or a narrower network is chosen if the usual one would take longer, by an estimate; it
    # stops early enough to evaluate the energy within that time; repeat the command to go on
    minutes: float | None = field(default=None, metadata=OF_THIS_CALL)
    # folder for TensorBoard
    tensorboard: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # TOML file with any of these options; those given here as well win
    config: Path | None = field(default=None, metadata=OF_THIS_CALL)
    started_by: Annotated[tuple[str, Mapping[str, Any]], *Hidden] = field(default=("", {}), metadata=OF_THIS_CALL)
    begin: Annotated[float | None, *Hidden] = field(default=None, metadata=OF_THIS_CALL)

    def ground_state(self, hamiltonian: Hamiltonian, *, name: str, reference: ReferencePhase | None = None) -> Result:
        """`nqs.ground_state` with these options; the result is printed, with archive and figure.

        Args:
            name: start of the archive's name in results/; a digest of all choices follows it.
            reference: what reference="auto" means, where that is more than the Hamiltonian itself says.
        """
        result = driver.ground_state(
            hamiltonian,
            model=self.model,
            reference=reference if reference is not None and self.reference == "auto" else self.reference,
            symmetry=self.symmetry,
            distinct=self.distinct,
            optimiser=self.optimiser,
            steps=self.steps,
            minutes=self.minutes,
            seed=self.seed,
            temperature=self.temperature,
            annealing=self.annealing,
            initial=self.initial,
            pretrain=self.pretrain,
            device=self.device,
            threads=self.threads,
            exact_limit=self.exact_limit,
            archive=self.archive,
            name=name,
            figure=True,
            flush=self.flush,
            watch=[] if self.tensorboard is None else [TensorBoard(self.tensorboard)],
            started_by=self.started_by,
            begin=self.begin,
        )
        assert result.archive is not None
        driver.report_result(result, result.archive)
        return result


CommonOptions = Annotated[Options, tyro.conf.arg(name="")]  # flags without a prefix


def command_line(
    main: Callable[[Config], object],
    config: type[Config],
    description: str | None,
    *,
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line into the config dataclass and run main; user errors end in one line.

    Raises:
        SystemExit: with an `ExitCode` other than FINISHED; 2 for wrong options.
    """
    begin = process_began()
    script = Path(inspect.getfile(config)).stem.replace("_", "-")
    with errors_to_exit_codes():
        arguments = list(sys.argv[1:] if args is None else args)
        arguments = _with_toml(arguments, config, script)
        parsed: Any = tyro.cli(config, description=description, args=arguments, prog=prog)
        if isinstance(getattr(parsed, "options", None), Options):
            started_by = (script, options_table(parsed))
            parsed = replace(parsed, options=replace(parsed.options, started_by=started_by, begin=begin))
        result = main(parsed)
        if isinstance(result, Result) and result.steps_left:
            raise SystemExit(int(ExitCode.TIME_LIMIT))


def process_began() -> float:
    """`time.monotonic()` at the start of this process, about: imports take CPU time and little else."""
    return time.monotonic() - time.process_time()


def _with_toml(arguments: list[str], config: type, script: str) -> list[str]:
    """The arguments with those of the file after --config in front of them."""
    place = next((i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--config"), None)
    if place is None:
        return arguments
    _, equals, path = arguments[place].partition("=")
    if not equals:
        path = "".join(arguments[place + 1 : place + 2])
    if not path:
        return arguments  # tyro says what is missing
    file = Path(path)
    needs_values = any(f.default is MISSING and f.default_factory is MISSING for f in fields(config))
    known = None if needs_values else option_names(config())
    return [*command_line_flags(read_toml(file, script), known, file), *arguments]
