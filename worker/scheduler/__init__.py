"""The scheduler: recovers jobs, submits schedules, sends webhooks, reads the inbox, checks uploads, makes trials."""
