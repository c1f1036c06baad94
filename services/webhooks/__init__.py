"""Webhooks: who subscribes to what, the messages, and how one is sent."""
