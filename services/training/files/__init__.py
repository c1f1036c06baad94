"""Files of sequences: read with care, described, and written canonically. Imports no torch."""
