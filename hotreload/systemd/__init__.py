"""The service manager's side: what is said to systemd."""
