"""What the system does: jobs, data sets, storage and training. Imports neither Flask nor Celery."""
