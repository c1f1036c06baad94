"""What a job that predicts is asked for, and what is said of what is wrong."""

from __future__ import annotations

import pytest

from services.errors import SpecInvalid
from services.training.spec import predict


@pytest.mark.parametrize("model", ["vowels", "vowels@", "vowels@0", "job_1", "Vowels@3", "vowels@\x1b"])
def test_a_model_that_has_no_such_name_is_told_how_one_is_named(model: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        predict.parse({"kind": "predict", "model": model, "data": {"dataset": "new"}})
    [problem] = caught.value.problems
    said, _, got = problem.detail.partition("; got ")
    assert (problem.pointer, got) == ("/model", '"{}"'.format(model.replace("\x1b", "\\x1b")))
    assert said == "must be a version (`vowels@3`), an alias (`vowels@production`), `vowels@latest` or the id of a job"
