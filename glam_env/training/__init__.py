"""Training: replay, the joint loop, schedules, run folders."""
