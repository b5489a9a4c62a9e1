"""A running service, from another process: find it, add jobs, wait for their results."""
