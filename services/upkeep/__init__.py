"""Upkeep: what the scheduler does at each tick, and what it counts."""
