"""Data sets: their versions, and the folder whose files become versions."""
