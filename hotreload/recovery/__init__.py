"""What is missing: the scan contract and what is done with its finds, at start and on demand."""
