"""Access: tenants and their limits, API keys, and the audit."""
