"""What the commands of every group share: a connection, exit codes, and errors as words.

Errors come to one place, `Command.invoke`, which says them in sentences on stderr and turns them into the exit codes of
docs/command.md.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from loopline import errors
from loopline.view.notes import note, on_retry, say, say_json

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.types import Dataset

EXIT_CODES: dict[int, str] = {
    0: "it worked, and a job that was waited for succeeded",
    1: "the job that was waited for failed, a webhook's test did not arrive, a file cannot be trained on, or a model "
    "was not reproduced",
    2: "the request, the API key or the command line is wrong",
    3: "the service cannot be reached, or is failing",
    4: "the job that was waited for was cancelled",
    141: "whoever read the output has closed it, as `head` does",
    130: "interrupted with Ctrl-C; a job that was watched goes on",
}
FAILED, BAD_REQUEST, UNREACHABLE, CANCELLED, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 130, 141
BY_ERROR: dict[type[errors.LooplineError], int] = {
    errors.JobFailed: FAILED,
    errors.JobCancelled: CANCELLED,
    errors.ServiceUnreachable: UNREACHABLE,
    errors.ServiceError: UNREACHABLE,
    errors.DownloadFailed: UNREACHABLE,
}
COMMANDS_OF_ROUTES = (
    (r"POST /v1/datasets\?name=NAME", "`loopline datasets upload FILE --name NAME`"),
    (r"GET /v1/datasets/([\w.@-]+)", r"`loopline datasets show \1`"),
    (r"DELETE /v1/models/([\w.-]+)/versions/(\d+)", r"`loopline models delete \1@\2`"),
    (r"POST /v1/batches/(\w+)/cancel", r"`loopline batches cancel \1`"),
    (r"GET /v1/jobs/(\w+)/checkpoints/STEP", r"`loopline download \1 --checkpoint STEP`"),
)
"""Routes that the service names in its messages, and the command for each."""
HOISTED = ("--url", "--api-key-file", "--retry-seconds")


class Command(TyperGroup):
    """The root of the commands: the one place where errors become words and exit codes."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, hoisted(args))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except errors.LooplineError as error:
            note(f"Error: {in_words(error)}")
            raise typer.Exit(BY_ERROR.get(type(error), BAD_REQUEST)) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stdout.fileno())  # or the interpreter would try once more when it ends
            raise typer.Exit(PIPE_CLOSED) from None
        except Exception as error:  # the last edge: no traceback, and no exit code that means something else
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):  # of the command line, said elsewhere
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            note(
                f"Error: The command cannot go on ({type(error).__name__}: {error}, at {Path(where.filename).name}:"
                f"{where.lineno}). Either the service is of another version, or this is a defect."
            )
            raise typer.Exit(UNREACHABLE) from None


AsJson = Annotated[bool, typer.Option("--json", help="Print the service's JSON instead, for scripts.")]


AsCsv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Save all columns as CSV to FILE instead; `-` prints it.")
]


def connected(ctx: typer.Context) -> Client:
    from loopline.client import Client

    on_retry(lambda trouble: None)
    return Client(ctx.obj["url"], api_key_file=ctx.obj["api_key_file"], retry_seconds=ctx.obj["retry_seconds"])


def in_words(error: errors.LooplineError) -> str:
    """What went wrong and, where there is one, the remedy."""
    if isinstance(error, errors.ServiceUnreachable):
        return (
            f"{error} Start it with `make run` (on a server `make up`), or point --url or LOOPLINE_URL at your server."
        )
    if isinstance(error, errors.NotAllowed) and error.code == "cross_origin":
        return str(error)
    if isinstance(error, errors.NotAllowed) and error.status == 403:
        return f"{error} Use a key that has it, or ask an admin of your tenant: `loopline keys create --scopes ...`."
    if isinstance(error, errors.NotAllowed):
        return (
            f"{error} The key is read from LOOPLINE_API_KEY, or from the file --api-key-file or LOOPLINE_API_KEY_FILE."
        )
    return as_typed(str(error))


def as_typed(words: str) -> str:
    """The service's message, with each route in it replaced by the command for it."""
    for route, command in COMMANDS_OF_ROUTES:
        words = re.sub(route, command, words)
    return words


def for_each(names: Iterable[str], one: Callable[[str], str]) -> None:
    """Does the same to each and prints the result. An error of one does not stop the others."""
    wrong = False
    for name in names:
        try:
            say(one(name))
        except (errors.BadRequest, errors.NotFound, errors.Conflict) as error:
            note(f"Error: {in_words(error)}")
            wrong = True
    if wrong:
        raise typer.Exit(BAD_REQUEST)


def print_json(document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    say_json(document, indent=2)


def exported(found: Sequence[Any], *, as_json: bool, csv: str | None) -> bool:
    """Prints a list as JSON or saves it as CSV, if that was asked for. Whether it was."""
    if csv is not None:
        from loopline.cli import export

        export.save(found, csv)
    elif as_json:
        print_json([each.raw for each in found])
    return as_json or csv is not None


def hoisted(args: list[str]) -> list[str]:
    """The arguments with the options in HOISTED moved to the front, because people also type them after the command."""
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        if arg == "--":
            rest += [arg, *remaining]
        elif arg in HOISTED:
            front += [arg, *([value] if (value := next(remaining, None)) is not None else [])]
        elif arg.startswith(tuple(f"{option}=" for option in HOISTED)):
            front.append(arg)
        else:
            rest.append(arg)
    return front + rest


def typed(ctx: typer.Context, verb: str, about: str) -> str:
    """How a command is typed, at the address in use."""
    url = ctx.obj["url"]
    elsewhere = f" --url {url}" if url and url != os.environ.get("LOOPLINE_URL") else ""
    return f"loopline{elsewhere} {verb} {about}"


def withdrawn(dataset: Dataset) -> None:
    note(f"Removed {dataset.reference}, which was uploaded for this job, because the job was refused.")
