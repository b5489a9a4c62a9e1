"""A FastAPI application with durable jobs in it."""
