"""Schedules: what to submit when, which slots are due, and what came of each."""
