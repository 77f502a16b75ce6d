"""What the figures of the documentation come from, side by side in one run."""
