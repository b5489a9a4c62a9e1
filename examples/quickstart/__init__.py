"""A whole service in one file."""
