"""GPUs: which there are, and what to do about what goes wrong with them."""
