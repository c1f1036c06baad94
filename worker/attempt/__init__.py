"""One attempt at a job: the trainer trains, and what it says is written down, fenced by the lease."""
