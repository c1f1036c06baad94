"""The commands about webhooks: `loopline webhooks ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from loopline import errors
from loopline.cli.shared import FAILED, AsCsv, AsJson, connected, exported, for_each, print_json
from loopline.view.notes import note, say

webhooks = typer.Typer(
    help="Have messages sent to your server when something happens.\n\n"
    "Example: loopline webhooks create https://hooks.example.com/loopline",
    no_args_is_help=True,
    rich_markup_mode=None,
)

EVENTS = (
    *(f"job.{what}" for what in ("queued", "started", "paused", "succeeded", "failed", "cancelled")),
    "batch.ended",
    *(f"schedule.{what}" for what in ("fired", "ended", "skipped", "missed", "refused")),
    "search.ended",
    "model.promoted",
)
"""All event names of this version; the service checks them. docs/webhooks.md explains each."""

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id (`wh_...`).")]


@webhooks.command(name="create")
def create_webhook(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The public address that receives the messages.")],
    events: Annotated[
        list[str] | None,
        typer.Option("--event", "-e", metavar="EVENT", help=f"Send this event: {', '.join(EVENTS)}. Repeatable."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="ID", help="Only events of this schedule, or of this unfinished job, batch or search."
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="KEY:VALUE", help="Only events of jobs with this tag. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a webhook and print its secret. It is never shown again.

    Without --event it receives the ends of jobs, or with --only and a batch the end of the batch. This command needs
    a key with the scope admin.

    Example: loopline webhooks create https://example.com/hook -e job.failed
    """
    wanted = dict(pair(tag) for tag in tags or [])
    with connected(ctx) as client:
        webhook = client.webhooks.create(url, events=events, only=only, tags=wanted)
    if as_json:
        return print_json(webhook.raw)
    subjects = ", ".join(webhook.events) + (f" of {webhook.only}" if webhook.only else "")
    note(f"{webhook.id} is told of {subjects}. Its secret, to verify with, is not shown again.")
    return say(webhook.secret)


@webhooks.command(name="list")
def list_webhooks(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the webhooks of your tenant, newest first.

    Example: loopline webhooks list
    """
    with connected(ctx) as client:
        found = list(client.webhooks.list())
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No webhooks yet. Make one: loopline webhooks create https://...")
    from loopline.view import table, tenancy

    return table.console().print(tenancy.webhooks(found))


@webhooks.command(name="show")
def show_webhook(ctx: typer.Context, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Show a webhook: its events, and whether messages arrive.

    Example: loopline webhooks show wh_01m8534rdzpk2b2nwmwmj4v6dg
    """
    with connected(ctx) as client:
        found = client.webhooks.get(webhook_id)
    if as_json:
        return print_json(found.raw)
    from loopline.view import table, tenancy

    return table.console().print(tenancy.webhook(found))


@webhooks.command(name="delete")
def delete_webhook(
    ctx: typer.Context,
    webhook_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of webhooks; one or more.")],
) -> None:
    """Delete webhooks with their unsent messages and their logs.

    Example: loopline webhooks delete wh_01m8534rdzpk2b2nwmwmj4v6dg
    """

    def one(webhook_id: str) -> str:
        client.webhooks.delete(webhook_id)
        return f"Deleted {webhook_id}."

    with connected(ctx) as client:
        for_each(webhook_ids, one)


@webhooks.command(name="rotate")
def rotate_secret(ctx: typer.Context, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Give a webhook a new secret and print it. It is never shown again.

    For 24 hours messages are also signed with the old secret. Give the new one to the receiver within that time.

    Example: loopline webhooks rotate wh_01m8534rdzpk2b2nwmwmj4v6dg
    """
    with connected(ctx) as client:
        webhook = client.webhooks.rotate(webhook_id)
    if as_json:
        return print_json(webhook.raw)
    from loopline import text

    until = text.when(webhook.old_secret_until)
    note(f"{webhook.id} has a new secret, which is not shown again. The one before signs too until {until}.")
    return say(webhook.secret)


@webhooks.command(name="test")
def try_webhook(ctx: typer.Context, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send a test message at once and print the result.

    If the message arrives, a disabled webhook is enabled again. If it does not, the exit code is 1.

    Example: loopline webhooks test wh_01m8534rdzpk2b2nwmwmj4v6dg
    """
    with connected(ctx) as client:
        found = client.webhooks.test(webhook_id)
    if as_json:
        print_json(found.raw)
    elif found.state == "delivered":
        say(f"{found.id} arrived; the receiver answered {found.last_status}.")
    else:
        note(f"Error: {found.id} did not arrive. {found.last_error}")
    if found.state != "delivered":
        raise typer.Exit(FAILED)


@webhooks.command(name="deliveries")
def list_deliveries(
    ctx: typer.Context,
    webhook_id: WebhookId,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="List at most this many messages.")
    ] = 20,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """List the messages of a webhook and their results, newest first.

    Example: loopline webhooks deliveries wh_01m8534rdzpk2b2nwmwmj4v6dg
    """
    from itertools import islice

    with connected(ctx) as client:
        found = list(islice(client.webhooks.deliveries(webhook_id, page_size=min(limit, 100)), limit))
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No messages yet. Try one: loopline webhooks test ID")
    from loopline.view import table, tenancy

    return table.console().print(tenancy.deliveries(found))


@webhooks.command(name="redeliver")
def redeliver(
    ctx: typer.Context,
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="MESSAGE", help="The message's id (`msg_...`).")],
) -> None:
    """Send a message again, with the same id.

    Example: loopline webhooks redeliver wh_01m8534rdzpk2b2n msg_01m8534rdz
    """
    with connected(ctx) as client:
        found = client.webhooks.redeliver(webhook_id, delivery_id)
    say(f"{found.id} is sent again within seconds.")


def pair(tag: str) -> tuple[str, str]:
    """A key and its value, as `team:speech` says."""
    key, colon, value = tag.partition(":")
    if not colon or not key:
        raise errors.BadRequest(f"--tag takes KEY:VALUE, such as --tag team:speech; this is {tag!r}.")
    return key, value
