"""The game by the name `cory_v1` in verifiers, whose plug-ins are top-level modules.

python examples/trainers/endpoint.py --port 8000 &
PYTHONPATH=examples/trainers vf-eval cory_v1 -n 8 -m embedded --env.taskset.game imdb \
    --client.base-url http://127.0.0.1:8000/v1 --sampling.max-tokens 16 --no-push --no-rich
"""

from cory_env.adapters.verifiers import CoryEnv, CoryHarness, CoryTaskset

__all__ = ["CoryEnv", "CoryHarness", "CoryTaskset"]
