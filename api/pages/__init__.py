"""The web pages: one template and one script for each, which ask `/v1` for all that they show."""
