"""The HTTP API, with one module per resource and no other logic."""
