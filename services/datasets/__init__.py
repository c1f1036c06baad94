"""Data sets: their versions, the folder that becomes versions, and the memory that uploads share."""
