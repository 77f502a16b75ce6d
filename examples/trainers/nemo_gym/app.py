"""One seat in NeMo-Gym, as `resources_servers/cory/app.py` beside `cory.yaml` in its `configs/`.

Not run against NeMo-Gym itself; written for its `resources_servers/gymnasium` of November 2026.
Rows have the fields `task`, `seed`, `seat` and `observers` beside `responses_create_params`. Put a
policy of your own in the place of the partner: None answers at random.
"""

from resources_servers.gymnasium import GymnasiumServer, extract_text

from cory_env import gym_env


class CoryServer(GymnasiumServer):
    """A session is an episode of one seat."""

    ray_enabled = False

    async def reset(self, metadata, session_id=None):
        """Begin the episode of a row, and return what its seat reads."""
        options = {"task": metadata["task"], "observers": metadata.get("observers", 1)}
        seat = gym_env(metadata["seat"], None, action_level="response", **options)
        _, info = seat.reset(seed=metadata["seed"])
        self.session_state[session_id] = seat
        return info["prompt"], {}

    async def step(self, action, metadata, session_id=None):
        """Answer, and return what the seat is paid."""
        _, reward, over, _, _ = self.session_state[session_id].step(extract_text(action))
        return None, float(reward), over, False, {}


if __name__ == "__main__":
    CoryServer.run_webserver()
