"""HTTP and nothing else: one module a resource."""
