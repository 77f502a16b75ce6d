"""Episodes, and who earns what."""
