"""Pure functions, each with a brute-force twin in the tests."""
