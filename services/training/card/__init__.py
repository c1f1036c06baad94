"""The model card: README.md and its pictures, which say what a model is, how good it is and how it was trained.

`writing.files_of` makes all of its files from what model.json and history.json say, and from a few answers
(`gathering.py`, which alone needs torch). Names of classes, columns and data sets are clients' text: `markdown.py` and
`svg.py` keep it from becoming markup.
"""
