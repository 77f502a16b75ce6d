"""What is seen while it runs."""
