"""The scheduler: brings back lost jobs, submits due schedules, sends webhooks and reads the inbox."""
