"""One attempt at a job: the trainer trains, and its events are written to the database, fenced by the lease."""
