"""The scheduler: brings back lost jobs, submits due schedules, sends webhooks, reads the inbox and checks uploads."""
