"""/jobs/{id}/card: the model card of a job, with its pictures. The page of the job takes its text from here."""

from __future__ import annotations

from contextlib import closing

from flask import Blueprint, Response

from api import auth
from api.pages import markdown
from api.pages.site import Page, show
from api.resources.jobs import identified
from api.service import current
from services import db
from services.blobs import transfers
from services.errors import NotFound
from services.jobs import control
from services.training.card import names

site = Blueprint("cards", __name__)

PAGE = Page("card", "/jobs/<job_id>/card", "Model card", in_menu=False, under="jobs", has_script=False)
MOST_BYTES = 1 << 20
"""That are read of a card; no card is as long."""


@site.get(PAGE.path)
def read(job_id: str) -> Response:
    with db.read_scope(current().engine) as session:
        job = control.get(session, identified(job_id), tenant=auth.tenant())
    files = {file["name"]: file for file in job.files or ()}
    if names.README not in files:
        raise NotFound("This job has no model card.")
    try:
        with closing(transfers.opened(current().storage, job.id, files[names.README])) as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise NotFound("The model card is recorded and no longer in the storage.") from error
    pictures = {name: f"/v1/jobs/{job.id}/model/{name}" for name in files if name in names.NAMES}
    body = markdown.html(text, link=_elsewhere, picture=pictures.get)
    return show(PAGE, job_id=job.id, name=job.name or job.id, body=body)


def _elsewhere(target: str) -> str | None:
    return target if target.startswith(("https://", "http://", "#")) else None
