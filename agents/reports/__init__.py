"""Pages about runs, read afterwards."""
