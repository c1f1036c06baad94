"""The version of Loopline: of the client, and of the service that comes with it."""

VERSION = "0.1.0"
