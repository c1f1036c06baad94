"""The gate: decides whether a retrained model is significantly better than the previous one."""
