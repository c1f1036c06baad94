"""/v1/models: the registry, where models have names, versions and aliases. A job's own result is in results.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api import auth, bodies, downloads, openapi, schemas
from api.service import current
from services import db
from services.jobs import control
from services.models import registry
from services.orm import Dataset, Job, ModelMove, ModelVersion

api = openapi.blueprint("registry", __name__, prefix="/v1/models", about="Models by name, with versions and aliases.")


def _body(kind: type[schemas.Body], *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": kind.model_json_schema()}}}


@api.post(
    "/<model>/versions",
    operation_id="registerModel",
    request_body=_body(schemas.VersionRequest),
    responses={200: schemas.ModelVersion, 201: schemas.ModelVersion, **openapi.problems(404, 409, 413, 415)},
)
def register(path: schemas.ModelPath) -> Response:
    """Register the result of a job as the next version of a model

    201 for a new version, 200 if the job is already a version of this model. 409 if the job has not succeeded. The job
    cannot be deleted as long as the version exists.
    """
    wanted = bodies.wanted(schemas.VersionRequest, "There can be no such version.")
    who = auth.identity()
    with db.session_scope(current().engine) as session:
        version, created = registry.register(
            session, path.model, wanted.job, note=wanted.note, by=who.key_id, tenant=auth.tenant()
        )
        if created:
            auth.note(session, "model.register", f"{version.name}@{version.version}")
        [resource] = described(session, [version])
    return openapi.answer(resource, 201 if created else 200, {"Location": resource.links.self})


@api.get("", operation_id="listModels", responses={200: schemas.ModelList})
def index(query: schemas.ModelsQuery) -> Response:
    """List the models of the registry, by name"""
    with db.read_scope(current().engine) as session:
        rows, more = registry.page(session, tenant=auth.tenant(), **query.model_dump())
        return openapi.answer(schemas.ModelList(data=_models(session, rows), has_more=more))


@api.get("/<model>", operation_id="getModel", responses={200: schemas.Model, **openapi.problems(404)})
def show(path: schemas.ModelPath) -> Response:
    """Get a model: its aliases and its newest version"""
    with db.read_scope(current().engine) as session:
        [found] = _models(session, [registry.get(session, f"{path.model}@{registry.LATEST}", tenant=auth.tenant())])
        return openapi.answer(found)


@api.get(
    "/<model>/versions",
    operation_id="listModelVersions",
    responses={200: schemas.ModelVersionList, **openapi.problems(404)},
)
def versions(path: schemas.ModelPath, query: schemas.ModelVersionsQuery) -> Response:
    """List the versions of a model, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = registry.versions(session, path.model, tenant=auth.tenant(), **query.model_dump())
        return openapi.answer(schemas.ModelVersionList(data=described(session, rows), has_more=more))


@api.get(
    "/<model>/versions/<ref>",
    operation_id="getModelVersion",
    responses={200: schemas.ModelVersion, **openapi.problems(404)},
)
def version(path: schemas.ModelVersionPath) -> Response:
    """Get one version of a model, with its job, data and spec"""
    with db.read_scope(current().engine) as session:
        [found] = described(session, [_found(session, path)])
        return openapi.answer(found)


@api.delete(
    "/<model>/versions/<ref>",
    operation_id="deleteModelVersion",
    responses={204: None, **openapi.problems(404, 409)},
)
def delete(path: schemas.ModelVersionPath) -> Response:
    """Delete one version of a model, by its number

    409 while an alias points at it. The job stays and may be deleted afterwards. The number is never used again.
    """
    with db.session_scope(current().engine) as session:
        gone = registry.delete(session, f"{path.model}@{path.ref}", tenant=auth.tenant())
        auth.note(session, "model.delete", f"{gone.name}@{gone.version}")
    return Response(status=204)


@api.get(
    "/<model>/versions/<ref>/download",
    operation_id="downloadModelVersion",
    responses={
        200: openapi.files("A zip of the model's files.", "application/zip"),
        304: {"description": "The client has it."},
        **openapi.problems(404),
    },
)
def download(path: schemas.ModelVersionPath) -> Response:
    """Download one version of a model as a zip

    The `ETag` changes when an alias points at another version, so a process that serves `production` can ask with
    If-None-Match whether the version has changed.
    """
    with db.read_scope(current().engine) as session:
        found = _found(session, path)
        job = control.get(session, found.job_id, tenant=auth.tenant())
    filename = f"{found.name}-{found.version}.zip"
    answer = downloads.zip_response(filename, current().storage, job.id, job.files or ())
    answer.headers["Content-Location"] = f"{api.url_prefix}/{found.name}/versions/{found.version}/download"
    return answer


@api.get(
    "/<model>/history", operation_id="listModelHistory", responses={200: schemas.ModelMoveList, **openapi.problems(404)}
)
def history(path: schemas.ModelPath, query: schemas.AuditQuery) -> Response:
    """List the moves of the aliases of a model, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = registry.history(session, path.model, tenant=auth.tenant(), **query.model_dump())
        return openapi.answer(schemas.ModelMoveList(data=[_move(row) for row in rows], has_more=more))


@api.put(
    "/<model>/aliases/<alias>",
    operation_id="promoteModel",
    request_body=_body(schemas.AliasRequest),
    responses={200: schemas.ModelVersion, **openapi.problems(404, 409, 413, 415)},
)
def promote(path: schemas.AliasPath) -> Response:
    """Point an alias at a version

    It takes effect at once and is written into the history. With `expected`, the answer is 409 unless the alias points
    at that version now. If the alias already points at `version`, nothing changes. The answer is the version.
    """
    wanted = bodies.wanted(schemas.AliasRequest, "An alias cannot point there.")
    who = auth.identity()
    with db.session_scope(current().engine) as session:
        found, changed = registry.promote(
            session,
            path.model,
            str(wanted.version),
            alias=path.alias,
            reason=wanted.reason,
            expected=wanted.expected,
            by=who.key_id,
            tenant=auth.tenant(),
        )
        if changed:
            auth.note(session, "model.promote", f"{found.name}@{path.alias}")
        [resource] = described(session, [found])
    return openapi.answer(resource)


@api.post(
    "/<model>/aliases/<alias>/rollback",
    operation_id="rollBackModel",
    request_body=_body(schemas.RollbackRequest, required=False),
    responses={200: schemas.ModelVersion, **openapi.problems(404, 409, 413, 415)},
)
def rollback(path: schemas.AliasPath) -> Response:
    """Point an alias at the version before its last promotion

    A repeated request goes back one more version; `expected` prevents that (409). 409 also if there is no previous
    version. The answer is the version that the alias now points at.
    """
    wanted = bodies.wanted(schemas.RollbackRequest, "An alias cannot go back like this.", optional=True)
    who = auth.identity()
    with db.session_scope(current().engine) as session:
        found = registry.rollback(
            session,
            path.model,
            alias=path.alias,
            reason=wanted.reason,
            expected=wanted.expected,
            by=who.key_id,
            tenant=auth.tenant(),
        )
        auth.note(session, "model.rollback", f"{found.name}@{path.alias}")
        [resource] = described(session, [found])
    return openapi.answer(resource)


@api.delete("/<model>/aliases/<alias>", operation_id="demoteModel", responses={204: None, **openapi.problems(404)})
def demote(path: schemas.AliasPath) -> Response:
    """Remove an alias; the version that it points at stays"""
    with db.session_scope(current().engine) as session:
        gone = registry.demote(session, path.model, path.alias, by=auth.identity().key_id, tenant=auth.tenant())
        auth.note(session, "model.demote", f"{gone.name}@{path.alias}")
    return Response(status=204)


def described(session: Session, rows: Sequence[ModelVersion]) -> list[schemas.ModelVersion]:
    """The versions as clients see them."""
    theirs = {job.id: job for job in control.get_many(session, [row.job_id for row in rows])}
    pointing = registry.aliases(session, {row.name for row in rows}, tenant=auth.tenant())
    return [_version(session, row, theirs[row.job_id], pointing[row.name]) for row in rows]


def _found(session: Session, path: schemas.ModelVersionPath) -> ModelVersion:
    return registry.get(session, f"{path.model}@{path.ref}", tenant=auth.tenant())


def _models(session: Session, newest: Sequence[ModelVersion]) -> list[schemas.Model]:
    """The models whose newest versions these are."""
    pointing = registry.aliases(session, {row.name for row in newest}, tenant=auth.tenant())
    links = (f"{api.url_prefix}/{row.name}" for row in newest)
    return [
        schemas.Model(
            name=latest.model,
            aliases=dict(pointing[latest.model]),
            latest=latest,
            links=schemas.ModelLinks(self=link, versions=f"{link}/versions", history=f"{link}/history"),
        )
        for latest, link in zip(described(session, newest), links, strict=True)
    ]


def _version(session: Session, row: ModelVersion, job: Job, pointing: Mapping[str, int]) -> schemas.ModelVersion:
    self = f"{api.url_prefix}/{row.name}/versions/{row.version}"
    return schemas.ModelVersion(
        model=row.name,
        version=row.version,
        aliases=[alias for alias, version in pointing.items() if version == row.version],
        job_id=job.id,
        dataset=_dataset(session, job),
        spec=job.spec,
        metrics=(job.result or {}).get("metrics") or {},
        files=_files(job.files or ()),
        retrain=_retrained(job, row),
        note=row.note,
        created_at=schemas.moment(row.created_at),
        created_by=row.created_by,
        links=schemas.ModelVersionLinks(self=self, job=f"/v1/jobs/{job.id}", download=f"{self}/download"),
    )


def _retrained(job: Job, row: ModelVersion) -> schemas.Retrained | None:
    """What the retraining came to, if this version is the one that it made."""
    found = (job.result or {}).get("retrain")
    is_of_it = found is not None and (found["model"], found["version"]) == (row.name, row.version)
    return schemas.Retrained.model_validate(found) if is_of_it else None


def _dataset(session: Session, job: Job) -> schemas.ModelData | None:
    row = session.get(Dataset, job.dataset_id) if job.dataset_id else None
    return schemas.ModelData(id=row.id, name=row.name, version=row.version, sha256=row.sha256) if row else None


def _files(recorded: Collection[Mapping[str, Any]]) -> list[schemas.ModelFile]:
    """Without the keys of the object store."""
    return [schemas.ModelFile(name=file["name"], bytes=file["bytes"], sha256=file["sha256"]) for file in recorded]


def _move(row: ModelMove) -> schemas.ModelMove:
    return schemas.ModelMove.model_validate(
        {
            "id": row.id,
            "at": schemas.moment(row.at),
            "alias": row.alias,
            "action": row.action,
            "from_version": row.from_version,
            "to_version": row.to_version,
            "by": row.by,
            "reason": row.reason,
        }
    )
