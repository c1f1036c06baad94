"""Schedules: what to submit and when, which slots are due, and the result of each slot."""
