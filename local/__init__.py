"""The whole service on one machine, without Docker, PostgreSQL or Redis: `python -m local run|demo`."""
