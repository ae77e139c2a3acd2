"""The command `nqs`: run, resume, look at, compare, draw, check and export runs.

One file a command, each a frozen dataclass whose fields are its options and which is called to run; a new one is one
more line in COMMANDS. Exit codes: `nqs.cli.errors.ExitCode`, and 2 for wrong options.

Nothing heavy is imported before a command needs it: `nqs --help` and `nqs show` do without torch.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro

from nqs.cli.commands.compare import Compare
from nqs.cli.commands.completion import Completion
from nqs.cli.commands.export import Export
from nqs.cli.commands.plot import Plot
from nqs.cli.commands.report import Report
from nqs.cli.commands.resume import Resume
from nqs.cli.commands.run import choices, run
from nqs.cli.commands.show import Show
from nqs.cli.commands.verify import Verify
from nqs.runtime.threads import let_idle_threads_sleep

# In the order in which --help lists them, after `run`.
COMMANDS: dict[str, Callable[..., Any]] = {
    "resume": Resume,
    "show": Show,
    "compare": Compare,
    "plot": Plot,
    "report": Report,
    "verify": Verify,
    "export": Export,
    "completion": Completion,
}

DESCRIPTION = """Ground states of quantum many-body Hamiltonians from neural quantum states.

  nqs run bose-hubbard --U 8           a run; interrupt it and repeat the command to go on
  nqs show results/*.h5                what there is
  nqs compare results/*.h5             a table against the exact energies
  nqs report results/*.h5 -o all.html  a web page with figures
  nqs COMMAND --help                   more

Exit codes: 0 done; 1 error; 2 wrong options; 3 stopped at --minutes with steps left; 130, 143 stopped by
SIGINT, SIGTERM with everything saved."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command.

    Raises:
        SystemExit: with the exit code, if that is not 0.
    """
    let_idle_threads_sleep()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = arguments[0] if arguments else ""
    if first == "run" and run(arguments[1:]):
        return
    if first not in COMMANDS:  # help, a mistake, or run with one of them
        tyro.cli(whole_command_line(choices()), prog="nqs", description=DESCRIPTION, args=arguments)
        return
    command = COMMANDS[first]
    description = inspect.cleandoc(command.__doc__ or "")
    code = tyro.cli(command, prog=f"nqs {first}", description=description, args=arguments[1:])()
    if code:
        raise SystemExit(int(code))


def whole_command_line(run_type: Any) -> Any:
    """A union that tyro makes the command line of.

    Args:
        run_type: what follows `nqs run`.
    """
    commands: list[Any] = [Annotated[run_type, tyro.conf.subcommand("run", description="Find a ground state.")]]
    for name, command in COMMANDS.items():
        first_paragraph = inspect.cleandoc(command.__doc__ or "").split("\n\n")[0]
        commands.append(Annotated[command, tyro.conf.subcommand(name, description=first_paragraph)])
    return Union[tuple(commands)]  # noqa: UP007
