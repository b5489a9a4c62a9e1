"""Several nodes of one service on one PostgreSQL."""
