"""Searches: which values of some fields of a spec are the best, found by training one job after the other."""
