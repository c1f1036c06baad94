"""Blobs: data sets, checkpoints and models, as local files or in an object store; and the memory that uploads share."""
