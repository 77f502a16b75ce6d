"""CORY as a game: two language models, a pioneer and an observer, that answer one after the other.

Source: Ma et al., "Coevolving with the Other You" (NeurIPS 2024, arXiv 2410.06101).
"""

from cory_env.aec import env, raw_env
from cory_env.game import RewardError
from cory_env.parallel import parallel_env
from cory_env.registration import register_games
from cory_env.registry import make_reward, make_task, register_reward, register_task
from cory_env.seat import gym_env
from cory_env.task import Task
from cory_env.types import Example, Response
from cory_env.vector import vector_env

register_games()

__version__ = "0.2.0"

__all__ = [
    "Example",
    "Response",
    "RewardError",
    "Task",
    "__version__",
    "env",
    "gym_env",
    "make_reward",
    "make_task",
    "parallel_env",
    "raw_env",
    "register_reward",
    "register_task",
    "vector_env",
]
