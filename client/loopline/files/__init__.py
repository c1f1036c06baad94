"""Reads the files that people have: tables, archives of recordings, text. The client and the service both use it.

It needs numpy and pyarrow: `pip install "loopline[files]"`. Nothing else of the client is needed, and nothing here asks
a service.
"""

SUFFIXES = (
    ".csv",
    ".tsv",
    ".parquet",
    ".jsonl",
    ".ts",
    ".txt",
    ".csv.gz",
    ".tsv.gz",
    ".jsonl.gz",
    ".zip",
    ".npy",
    ".npz",
)
"""The endings of the files that can be read."""


def ending_of(name: str) -> str:
    """The one of SUFFIXES with which a file's name ends, such as `.jsonl.gz`; empty if there is none."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
