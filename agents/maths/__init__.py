"""Pure functions, a twin in the tests each."""
