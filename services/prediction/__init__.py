"""Predicts with the models of jobs, in the process that is asked."""
