"""The forms of the environment, driven alike: reset, act for whoever is on turn, look at all."""

import cory_env

AEC_ONLY = ("action_level", "one_hot", "render_mode")
"""Arguments that `vector_env` does not take."""


class Aec:
    """`env`."""

    def __init__(self, task, *, seat=None, partner=None, **options):
        self.env = cory_env.env(task, **options)
        self.rules = self.env.unwrapped.rules

    def reset(self, seed=None, example=None):
        self.env.reset(seed, {"example": example})

    def act(self, action):
        self.env.step(action)

    @property
    def on_turn(self):
        return None if any(self.env.terminations.values()) else self.env.agent_selection

    def look(self):
        env = self.env
        return {
            "agent": self.on_turn,
            "agents": list(env.agents),
            "state": env.state(),
            "last": env.last() if env.agents else None,
            "observations": {agent: env.observe(agent) for agent in env.possible_agents},
            "rewards": dict(env.rewards),
            "terminations": dict(env.terminations),
            "truncations": dict(env.truncations),
            "infos": {agent: dict(info) for agent, info in env.infos.items()},
        }


class Parallel:
    """`parallel_env`, in which whoever is not on turn passes."""

    def __init__(self, task, *, seat=None, partner=None, **options):
        self.env = cory_env.parallel_env(task, **options)
        self.rules = self.env.aec_env.rules
        by_token = options.get("action_level", "token") == "token"
        self.no_op = self.rules.tokenizer.eos_token_id if by_token else ""
        self.last = ({}, {})

    def reset(self, seed=None, example=None):
        self.last = self.env.reset(seed, {"example": example})

    def act(self, action):
        on_turn = self.on_turn
        actions = dict.fromkeys(self.env.possible_agents, self.no_op)
        self.last = self.env.step(actions | {on_turn: action} if on_turn else actions)

    @property
    def on_turn(self):
        return next((info["active_agent"] for info in self.last[-1].values()), None)

    def look(self):
        return {"agents": list(self.env.agents), "last": self.last, "state": self.env.state()}


class Vector:
    """`vector_env` with two games, in which the same is answered."""

    def __init__(self, task, *, seat=None, partner=None, **options):
        options = {name: value for name, value in options.items() if name not in AEC_ONLY}
        self.env = cory_env.vector_env(2, task, **options)
        self.rules = self.env.rules

    def reset(self, seed=None, example=None):
        self.prompts = self.env.reset(seed, None if example is None else [example, example])

    def act(self, action):
        self.prompts = self.env.step([action, action])

    @property
    def on_turn(self):
        return self.env.agent_selection

    def look(self):
        games = self.env
        return {
            "agent": self.on_turn,
            "prompts": list(self.prompts),
            "roles": games.roles,
            "examples": games.examples,
            "responses": games.responses,
            "rewards": dict(games.rewards),
            "task_rewards": dict(games.task_rewards),
        }


class Seat:
    """`gym_env`, in the observer's seat and with random partners unless told otherwise."""

    def __init__(self, task, *, seat="observer_0", partner=None, **options):
        self.env = cory_env.gym_env(seat, partner, task, **options)
        self.rules = self.env.aec_env.rules
        self.last = ()

    def reset(self, seed=None, example=None):
        self.last = self.env.reset(seed=seed, options={"example": example})

    def act(self, action):
        self.last = self.env.step(action)

    @property
    def on_turn(self):
        return None if len(self.last) == 5 and self.last[2] else self.env.seat

    def look(self):
        partners = self.env.aec_env.state()  # shows what they have played
        return {"agent": self.on_turn, "last": self.last, "partners": partners}


FORMS = {"aec": Aec, "parallel": Parallel, "vector": Vector, "seat": Seat}
FORMS_AND_LEVELS = [
    (form, level)
    for form in FORMS
    for level in ("token", "response")
    if (form, level) != ("vector", "token")  # its actions are whole responses
]
