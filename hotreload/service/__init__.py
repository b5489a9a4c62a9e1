"""What a user declares, and how it becomes the parts of one running process."""
