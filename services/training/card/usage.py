"""How to use a model."""

from __future__ import annotations

from services.training.card.facts import Facts
from services.training.card.wording import Lines, counted


def usage(facts: Facts) -> Lines:
    reads_text = (facts.model.get("preprocessing") or {}).get("text") is not None
    asked = '--text "a text"' if reads_text else "new.csv"
    given, said = _given(facts)
    found = [
        "## How to use it",
        "",
        'In Python, with `pip install "loopline[predict]"` and this folder at `model`:',
        "",
        "```python",
        "from loopline import load",
        f'answer = load("model").predict({given})',
        f"print({_shown(facts.model['task'])})",
        "```",
        "",
        *([said, ""] if said else []),
        f"On the command line: `loopline predict ./model {asked}`",
        "",
    ]
    if facts.has_onnx:
        found += [
            "With ONNX Runtime, without Loopline:",
            "",
            "```python",
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("model/model.onnx")',
            "print([(each.name, each.type, each.shape) for each in session.get_inputs()])",
            "```",
            "",
        ]
    return [
        *found,
        "`docs/predict.md` and `docs/onnx.md` of Loopline say what to give a model and what it answers.",
        "",
    ]


def _given(facts: Facts) -> tuple[str, str]:
    """What to ask in Python, and a sentence on what that is."""
    prepared = facts.model.get("preprocessing") or {}
    static = prepared.get("static")
    if facts.model["data"].get("schema"):
        return '"new.csv"', "`new.csv` has the columns of the data set."
    beside = ", static=static" if static else ""
    said = f" `static` has {counted(len(static['features']), 'value')} of each sequence." if static else ""
    if prepared.get("text") is not None:
        return f'["a text", "another one"]{beside}', said.strip()
    width = len(prepared.get("features") or ()) or facts.model["input_size"]
    return f"x{beside}", f"`x` is an array of numbers (steps, {width}) for one sequence, or a list of them.{said}"


def _shown(task: str) -> str:
    return {"values": "answer.values", "series": "answer.values", "text": "answer.likeliest(10)"}.get(
        task, "answer.labels"
    )
