"""How every shipped file was made: run as `python -m recipes.NAME`."""
