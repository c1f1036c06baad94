"""Celery, and the processes that train."""
