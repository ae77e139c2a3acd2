"""The command `nqs`: run, resume, evaluate, show, compare, plot, report, verify and export runs.

Each command is a file with a frozen dataclass: its fields are the options, calling it runs the command. New commands
are added to COMMANDS. Exit codes: `nqs.cli.errors.ExitCode`.

Large packages are imported when a command needs them: `nqs --help` and `nqs show` do not import torch.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro

from nqs.cli.commands.compare import Compare
from nqs.cli.commands.completion import Completion
from nqs.cli.commands.evaluate import Evaluate
from nqs.cli.commands.export import Export
from nqs.cli.commands.plot import Plot
from nqs.cli.commands.report import Report
from nqs.cli.commands.resume import Resume
from nqs.cli.commands.run import choices, run
from nqs.cli.commands.show import Show
from nqs.cli.commands.verify import Verify
from nqs.runtime.launched import only_rank_0_speaks
from nqs.runtime.threads import let_idle_threads_sleep

# In the order in which --help lists them, after `run`.
COMMANDS: dict[str, Callable[..., Any]] = {
    "resume": Resume,
    "evaluate": Evaluate,
    "show": Show,
    "compare": Compare,
    "plot": Plot,
    "report": Report,
    "verify": Verify,
    "export": Export,
    "completion": Completion,
}

DESCRIPTION = """Ground states of quantum many-body Hamiltonians from neural quantum states.

  nqs run bose-hubbard --U 8           a run; repeat the command to continue it after an interrupt
  nqs show results/*.h5                state, energies and options of runs
  nqs compare results/*.h5             a table against the exact energies
  nqs report results/*.h5 -o all.html  a web page with figures
  nqs COMMAND --help                   more

Exit codes: 0 done; 1 error; 2 wrong options; 3 stopped at --minutes with remaining steps; 129, 130, 143
stopped by SIGHUP, SIGINT, SIGTERM with everything saved."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command.

    Raises:
        SystemExit: with the exit code, if that is not 0.
    """
    let_idle_threads_sleep()
    only_rank_0_speaks()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = arguments[0] if arguments else ""
    if first == "run" and run(arguments[1:]):
        return
    if first not in COMMANDS:  # help, a wrong command, or a wrong name after run
        tyro.cli(whole_command_line(choices()), prog="nqs", description=DESCRIPTION, args=arguments)
        return
    command = COMMANDS[first]
    description = inspect.cleandoc(command.__doc__ or "")
    code = tyro.cli(command, prog=f"nqs {first}", description=description, args=arguments[1:])()
    if code:
        raise SystemExit(int(code))


def whole_command_line(run_type: Any) -> Any:
    """All commands as a union for tyro; `run_type` is that of the scripts after `nqs run`."""
    commands: list[Any] = [Annotated[run_type, tyro.conf.subcommand("run", description="Find a ground state.")]]
    for name, command in COMMANDS.items():
        first_paragraph = inspect.cleandoc(command.__doc__ or "").split("\n\n")[0]
        commands.append(Annotated[command, tyro.conf.subcommand(name, description=first_paragraph)])
    return Union[tuple(commands)]  # noqa: UP007
