# The commands of the README, by name.
.PHONY: install test slow lint docs benchmarks wheels

install:
	pip install -c constraints.txt -e ".[agents,dev]"

test:
	python -m pytest

slow:
	python -m pytest -m slow

lint:
	ruff check .
	ruff format --check .
	pyright

docs:
	zensical build --clean --strict

benchmarks:
	python -m benchmarks.environment

wheels:
	python -m build
	python -m build distributions/cory-agents --outdir dist
