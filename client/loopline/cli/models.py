"""The commands about the registry: `loopline models ...`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli import export
from loopline.cli.shared import AsCsv, AsJson, connected, exported, print_json
from loopline.view.notes import meter, say
from loopline.view.notes import note as hint

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.types import Model, ModelVersion

PRODUCTION = "production"

models = typer.Typer(
    help="Name models, promote versions and roll them back.\n\nExample: loopline models promote vowels@3",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
Reference = Annotated[
    str, typer.Argument(metavar="VERSION", help="A version: `vowels@3`, `vowels@production` or `vowels@latest`.")
]
Alias = Annotated[str, typer.Option("--alias", metavar="ALIAS", help="The alias, if not production.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="The reason, kept in the history.")]
Expected = Annotated[
    int | None,
    typer.Option(
        "--expected", metavar="NUMBER", min=0, help="Only if the alias points at this version now; 0 means at none."
    ),
]


@models.command(name="list")
def list_models(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the models, by name.

    Example: loopline models list
    """
    with connected(ctx) as client:
        found = list(client.models.list())
        others = {} if as_json or csv is not None else {model.name: _production(client, model) for model in found}
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No models yet. Register one: loopline models register NAME last")
    from loopline.view import models as view_models

    return view_models.print_models((model, others[model.name]) for model in found)


@models.command(name="show")
def show_model(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME", help="A model, or one version of it (`vowels@3`).")],
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """Show a model's versions, or one version with its spec.

    Example: loopline models show vowels@production
    """
    from loopline.view import models as view_models

    with connected(ctx) as client:
        if "@" in reference:
            version = client.models.version(reference)
            if csv is not None:
                return export.save([version], csv)
            return print_json(version.raw) if as_json else view_models.print_version(version)
        model = client.models.get(reference)
        if csv is not None:
            return export.save(client.models.versions(reference), csv)
        if as_json:
            return print_json(model.raw)
        return view_models.print_versions(list(client.models.versions(reference)))


@models.command(name="register")
def register_model(
    ctx: typer.Context,
    name: Name,
    job_id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a job that has succeeded, or `last` for the newest job.")
    ],
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A note about this version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a job's result as a model's next version.

    If the job is already a version of this model, nothing changes.

    Example: loopline models register vowels last
    """
    with connected(ctx) as client:
        job_id = client.job("last").id if job_id == "last" else job_id
        version = client.models.register(name, job_id, note=note)
    if as_json:
        return print_json(version.raw)
    return say(f"{version.reference} ({version.job_id})")


@models.command(name="promote")
def promote_model(
    ctx: typer.Context,
    reference: Reference,
    alias: Alias = "production",
    reason: Reason = None,
    expected: Expected = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version.

    Example: loopline models promote vowels@3 --expected 2
    """
    with connected(ctx) as client:
        before = _aliases(client, reference)
        version = client.models.promote(reference, alias=alias, reason=reason, expected=expected)
    if before is not None and alias not in before:
        hint(_first_of(alias, version.model, before))
    if as_json:
        return print_json(version.raw)
    return say(f"{version.model}@{alias} is {version.reference}.")


@models.command(name="rollback")
def roll_back_model(
    ctx: typer.Context,
    name: Name,
    alias: Alias = "production",
    reason: Reason = None,
    expected: Expected = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at its previous version.

    Repeat the command to go back one more version.

    Example: loopline models rollback vowels
    """
    with connected(ctx) as client:
        version = client.models.rollback(name, alias=alias, reason=reason, expected=expected)
    if as_json:
        return print_json(version.raw)
    return say(f"{version.model}@{alias} is {version.reference} again.")


@models.command(name="demote")
def demote_model(
    ctx: typer.Context,
    name: Name,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias to remove.")],
) -> None:
    """Remove an alias; the version stays.

    Example: loopline models demote vowels candidate
    """
    with connected(ctx) as client:
        version = client.models.demote(name, alias)
    say(f"{version.reference} is {version.model}@{alias} no more.")


@models.command(name="history")
def show_history(ctx: typer.Context, name: Name, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """Show which versions a model's aliases have pointed at, newest first.

    Example: loopline models history vowels
    """
    with connected(ctx) as client:
        found = list(client.models.history(name))
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say(f"No version of {name} was promoted yet: loopline models promote {name}@latest")
    from loopline.view import models as view_models

    return view_models.print_history(found)


@models.command(name="download")
def download_model(
    ctx: typer.Context,
    reference: Reference,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Save to this folder. [default: ./NAME-NUMBER]")
    ] = None,
) -> None:
    """Download a version of a model.

    Example: loopline models download vowels@production --to vowels
    """
    from loopline import text

    with connected(ctx) as client:
        version = client.models.version(reference)
        with meter(f"Downloading {version.reference}") as on_bytes:
            folder = to or Path(f"{version.model}-{version.version}")
            files = client.models.download(version.reference, folder, on_bytes=on_bytes)
    for file in files:
        say(f"{file} ({text.size(file.stat().st_size)})")


@models.command(name="delete")
def delete_model(ctx: typer.Context, reference: Reference) -> None:
    """Delete one version, by its number.

    The job stays and may be deleted afterwards. The service refuses while an alias points at the version.

    Example: loopline models delete vowels@1
    """
    with connected(ctx) as client:
        version = client.models.delete(reference)
    say(f"Deleted {version.reference}; its job {version.job_id} stays.")


def _production(client: Client, model: Model) -> ModelVersion | None:
    """The version in production; None if it is the latest, or was removed in the meantime."""
    if model.aliases.get(PRODUCTION, model.latest.version) == model.latest.version:
        return None
    with suppress(errors.NotFound):
        return client.models.version(f"{model.name}@{PRODUCTION}")
    return None


def _aliases(client: Client, reference: str) -> Mapping[str, int] | None:
    """Which version each alias points at; None if the model does not exist, which the promotion then reports."""
    with suppress(errors.NotFound):
        return client.models.get(reference.partition("@")[0]).aliases
    return None


def _first_of(alias: str, model: str, before: Mapping[str, int]) -> str:
    """A note about an alias that is new: its name may be a typing error."""
    from difflib import get_close_matches

    close = get_close_matches(alias, {*before, PRODUCTION} - {alias}, n=1)
    meant = (
        f" Did you mean {close[0]}? Take this one away with: loopline models demote {model} {alias}" if close else ""
    )
    return f"{alias} is a new alias of {model}.{meant}"
