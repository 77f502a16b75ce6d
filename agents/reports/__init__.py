"""What is read afterwards."""
