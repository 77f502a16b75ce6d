"""What leaves the run folder."""
