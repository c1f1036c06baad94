"""`loopline completion SHELL`: what a shell needs to complete commands and options with Tab."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from loopline.view.notes import say

PROGRAM, VARIABLE = "loopline", "_LOOPLINE_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a script that lets a shell complete commands with Tab.

    bash: eval "$(loopline completion bash)" in ~/.bashrc. zsh: the same in ~/.zshrc, after compinit.
    fish: loopline completion fish | source, in ~/.config/fish/config.fish.

    Example: loopline completion bash
    """
    from typer._completion_shared import get_completion_script

    say(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value))


def prepare() -> None:
    """Lets typer answer the shell, if that is what the command was started for."""
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
