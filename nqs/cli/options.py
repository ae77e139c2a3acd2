"""Common part of all scripts: options, the call of `nqs.ground_state`, exit codes.

`python scripts/NAME.py` and `nqs run NAME` both call `command_line`.
"""

import gc
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
from nqs.cli.launch import is_launch_wanted, launch
from nqs.cli.toml import command_line_flags, option_names, options_table, read_toml
from nqs.protocols import Hamiltonian, ReferencePhase
from nqs.recipes import NetworkOptions, OptimiserOptions, default_device
from nqs.recipes.choices import ANNEALING
from nqs.runtime.launched import only_rank_0_speaks, rank_of_process
from nqs.runtime.progress import TensorBoard
from nqs.vmc.result import Result

Config = TypeVar("Config")
OF_THIS_CALL = {"of this call": True}  # metadata of options that are not stored in the archive
Couplings = float | tuple[float, ...]  # one number, or one for each bond or site
Hidden = tyro.conf.Suppress, tyro.conf.Fixed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every script; a script has `options: CommonOptions = field(default_factory=Options)`."""

    model: NetworkOptions = field(default_factory=NetworkOptions)
    # signs of the ground state; auto: known signs, a phase head learns corrections; none: the phase head learns all
    reference: Literal["auto", "none"] = "auto"
    # auto: symmetry sector of the ground state, if it is known and reduces the cost
    symmetry: Literal["auto", "none"] = "auto"
    distinct: int | None = None  # distinct configurations per step, without symmetry; None: chosen from the dimension
    sampled: bool = False  # no sums over the whole sector and no exact energy, also where the sector is small
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    steps: int | None = None  # total number of optimisation steps; None: chosen from the problem
    seed: int = 0  # seed of the samples
    temperature: float = 0.0  # initial temperature of entropy annealing, in the Hamiltonian's unit; 0: no annealing
    annealing: float = ANNEALING  # fraction of the steps over which the temperature falls to zero
    # archive of another run with initial parameters: other couplings, or another lattice
    initial: Path | None = None
    # fit the model to a state before the first step: the determinant that gives its signs, or the exact ground state
    pretrain: Literal["none", "mean-field", "exact"] = "none"
    device: str = field(default_factory=default_device)  # "cpu" or "cuda"; by default a GPU where there is one
    # GPUs of this machine, one process each (docs/several_gpus.md); None: one, or those of torchrun
    gpus: int | None = field(default=None, metadata=OF_THIS_CALL)
    # GiB of each GPU that a process allocates, at most; None: what is free
    gpu_memory: float | None = field(default=None, metadata=OF_THIS_CALL)
    # CPU threads; None: one for small steps, else as PyTorch chooses (one per core)
    threads: int | None = field(default=None, metadata=OF_THIS_CALL)
    exact_limit: int = driver.EXACT_LIMIT  # largest dimension for exact diagonalisation
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    # HDF5 file, with the figure beside it; None: in results/, named after the options
    archive: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # time limit including the evaluation; it gives sampled runs their length (of large systems 10 on a GPU, else 5)
    # and elsewhere selects fewer steps or a narrower network; repeat the command to continue a run that was stopped
    minutes: float | None = field(default=None, metadata=OF_THIS_CALL)
    # length of a sampled run that several processes continue, each bounded by --minutes
    total_minutes: float | None = None
    until_variance: float | None = None  # finish when the variance of a step is below this
    until_error: float | None = None  # finish when the error bar of a sampled step is below this
    # folder of TensorBoard files
    tensorboard: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # TOML file with any of these options; the command line takes precedence
    config: Path | None = field(default=None, metadata=OF_THIS_CALL)
    started_by: Annotated[tuple[str, Mapping[str, Any]], *Hidden] = field(default=("", {}), metadata=OF_THIS_CALL)
    begin: Annotated[float | None, *Hidden] = field(default=None, metadata=OF_THIS_CALL)

    def ground_state(
        self,
        hamiltonian: Hamiltonian,
        *,
        name: str,
        reference: ReferencePhase | None = None,
        orthogonal_to: Sequence[Path] = (),
    ) -> Result:
        """Call `nqs.ground_state` with these options; print the result and the paths of archive and figure.

        Args:
            name: beginning of the archive's name in results/; a digest of all choices follows.
            reference: known signs that the Hamiltonian does not state; used for reference="auto".
            orthogonal_to: archives of the states below the one that is wanted.
        """
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        del given["config"], given["gpus"]
        folder = given.pop("tensorboard")
        given["until"] = until(given.pop("until_variance"), given.pop("until_error"))
        if reference is not None and self.reference == "auto":
            given["reference"] = reference
        watch = [] if folder is None or rank_of_process() else [TensorBoard(folder)]
        result = driver.ground_state(
            hamiltonian, name=name, figure=True, watch=watch, orthogonal_to=orthogonal_to, **given
        )
        assert result.archive is not None
        driver.report_result(result, result.archive)
        return result


def until(variance: float | None, error: float | None) -> Callable[[Mapping[str, float]], bool] | None:
    """Criterion that ends a run, from a row of its history; None without one.

    Raises:
        ValueError: a bound that is not positive.
    """
    bounds = {name: bound for name, bound in (("variance", variance), ("error", error)) if bound is not None}
    for name, bound in bounds.items():
        if not bound > 0:
            raise ValueError(f"--until-{name} {bound}: give a positive number.")
    if not bounds:
        return None
    return lambda row: any(row[name] < bound and (name != "error" or row[name] > 0) for name, bound in bounds.items())


CommonOptions = Annotated[Options, tyro.conf.arg(name="")]  # flags without a prefix


def command_line(
    main: Callable[[Config], object],
    config: type[Config],
    description: str | None,
    *,
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line into the config dataclass and call main; user errors exit with one line.

    Raises:
        SystemExit: with an `ExitCode` other than FINISHED.
    """
    begin = process_began()
    if not gc.get_freeze_count():
        gc.freeze()  # garbage collections skip what is imported: most of their time in the first seconds
    only_rank_0_speaks()
    script = Path(inspect.getfile(config)).stem.replace("_", "-")
    with errors_to_exit_codes():
        arguments = [_full_name(word) for word in (sys.argv[1:] if args is None else args)]
        arguments = _with_toml(arguments, config, script)
        parsed: Any = tyro.cli(config, description=description, args=arguments, prog=prog)
        if isinstance(getattr(parsed, "options", None), Options):
            if is_launch_wanted(parsed.options.gpus):
                words = sys.argv[1:] if args is None else list(args)
                program = [sys.argv[0]] if prog is None else ["-m", *prog.split()]
                if code := launch(parsed.options.gpus, [*program, *words]):
                    raise SystemExit(int(code))
                return
            started_by = (script, options_table(parsed))
            parsed = replace(parsed, options=replace(parsed.options, started_by=started_by, begin=begin))
        result = main(parsed)
        if isinstance(result, Result) and result.steps_left:
            raise SystemExit(int(ExitCode.TIME_LIMIT))


def brief(couplings: Couplings) -> str:
    """A coupling in the name of an archive, which ends with a digest of all options."""
    return "various" if isinstance(couplings, tuple) else f"{couplings:g}"


def process_began() -> float:
    """`time.monotonic()` at the start of this process, estimated from its CPU time, which imports dominate."""
    return time.monotonic() - time.process_time()


def _full_name(word: str) -> str:
    """--model NAME is short for --model.network NAME."""
    flag, equals, value = word.partition("=")
    return f"--model.network{equals}{value}" if flag == "--model" else word


def _with_toml(arguments: list[str], config: type, script: str) -> list[str]:
    """The arguments, preceded by those from the TOML file after --config."""
    places = [i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--config"]
    if not places:
        return arguments
    if len(places) > 1:
        raise ValueError(
            f"--config is given {len(places)} times: give one file, and other options on the command line."
        )
    (place,) = places
    _, equals, path = arguments[place].partition("=")
    if not equals:
        path = "".join(arguments[place + 1 : place + 2])
    if not path:
        return arguments  # tyro reports the missing value
    file = Path(path)
    needs_values = any(f.default is MISSING and f.default_factory is MISSING for f in fields(config))
    known = None if needs_values else option_names(config())
    return [*command_line_flags(read_toml(file, script), known, file), *arguments]
