"""The commands about API keys: `loopline keys ...` and `loopline whoami`."""

from __future__ import annotations

from typing import Annotated

import typer

from loopline.cli.shared import AsCsv, AsJson, connected, exported, for_each, print_json
from loopline.view.notes import note, say

keys = typer.Typer(
    help="Create, list and revoke API keys of your tenant.\n\nExample: loopline keys create --scopes read,submit",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys.command(name="create")
def create_key(
    ctx: typer.Context,
    scopes: Annotated[
        str,
        typer.Option("--scopes", metavar="SCOPES", help="One or more of read, submit and admin, separated by commas."),
    ] = "read,submit",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="A name that says what the key is for.")
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", metavar="DAYS", help="The key expires after this many days.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it. It is never shown again.

    The service stores only a hash of the key. This command needs a key with the scope admin.

    Example: loopline keys create --scopes read,submit --name ci --expires-days 90
    """
    wanted = [scope.strip() for scope in scopes.split(",")]
    with connected(ctx) as client:
        key = client.keys.create(wanted, name=name, expires_days=expires_days)
    if as_json:
        return print_json(key.raw)
    from loopline import text

    ends = f"ends {text.when(key.expires_at)}" if key.expires_at else "does not end by itself"
    note(f"{key.id} of the tenant {key.tenant} may {', '.join(key.scopes)} and {ends}. It is not shown again.")
    return say(key.key)


@keys.command(name="list")
def list_keys(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the API keys of your tenant, newest first.

    The list includes revoked and expired keys. It contains no secrets.

    Example: loopline keys list
    """
    with connected(ctx) as client:
        found = list(client.keys.list())
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No keys yet. Make one: loopline keys create --scopes read,submit")
    from loopline.view import table, tenancy

    return table.console().print(tenancy.keys(found))


@keys.command(name="revoke")
def revoke_key(
    ctx: typer.Context,
    key_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of keys (`key_...`); one or more.")],
) -> None:
    """Revoke API keys; they stop working within a few seconds.

    Example: loopline keys revoke key_01m8534rdzpk2b2nwmwmj4v6dg
    """
    with connected(ctx) as client:
        for_each(key_ids, lambda key_id: f"Revoked {client.keys.revoke(key_id).id}.")


def whoami(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show your tenant, your rights and your quotas.

    It shows what your key may do and how much of its quotas your tenant has used.

    Example: loopline whoami
    """
    with connected(ctx) as client:
        found = client.whoami()
    if as_json:
        return print_json(found.raw)
    from loopline.view import table, tenancy

    return table.console().print(tenancy.identity(found))
