"""nqs completion: shell completion of commands, scripts and options."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a completion script for a shell.

    nqs completion bash > ~/.local/share/bash-completion/completions/nqs
    nqs completion zsh > ~/.zfunc/_nqs             with fpath+=~/.zfunc before compinit in ~/.zshrc
    """

    shell: Annotated[Literal["bash", "zsh", "tcsh"], tyro.conf.Positional]

    def __call__(self) -> None:
        from nqs.cli import whole_command_line
        from nqs.cli.commands.run import choices

        tyro.cli(whole_command_line(choices(real=True)), prog="nqs", args=["--tyro-print-completion", self.shell])
