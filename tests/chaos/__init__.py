"""Chaos: a whole Loopline under random faults, and afterwards proof of what it promises; see docs/faults.md."""
