"""Training recurrent networks with PyTorch alone: no jobs, no database, no queue, no HTTP."""
