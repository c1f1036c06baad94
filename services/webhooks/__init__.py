"""Webhooks: the subscriptions, the messages, and how a message is sent."""
