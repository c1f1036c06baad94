"""GPUs: finding them, and advice for their errors."""
