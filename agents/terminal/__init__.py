"""The terminal and the process: tables, streams, signals, silence."""
