"""Services to read and to run; `make run` starts `summaries`."""
