"""The stack of compose.yaml with a real Docker engine: `make test-containers`."""
