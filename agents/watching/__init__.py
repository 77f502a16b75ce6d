"""What shows a run while it trains: logger, live table, trackers."""
