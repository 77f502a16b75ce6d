"""Against the real packages of others: `.ci/run` has an environment of its own for each."""
