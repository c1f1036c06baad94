"""/v1/presets: the named architectures."""

from __future__ import annotations

from flask import Response

from api import openapi, schemas
from services.training.spec.presets import PRESETS

api = openapi.blueprint("presets", __name__, prefix="/v1/presets", about="The named architectures.")


@api.get("", operation_id="listPresets", responses={200: schemas.PresetList})
def index() -> Response:
    """List the presets

    A preset fills in part of a spec: name it as `preset`, and override any field.
    """
    presets = [
        schemas.Preset(name=name, description=preset.description, spec=preset.fragment)
        for name, preset in PRESETS.items()
    ]
    return openapi.answer(schemas.PresetList(data=presets))
