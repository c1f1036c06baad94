"""Blobs: data sets, checkpoints and models, as local files or in an object store."""
