"""OpenEnv serves this application: the observer's seat, whose partner repeats itself.

Put a policy of your own in the place of `partner`, or serve all seats: `app = table_app("imdb")`.
It is reached from this machine alone: python -m server.app
"""

import uvicorn

from cory_env.adapters.openenv import HOST, seat_app


def partner(observation, info):
    """Return what the pioneer answers to `info["prompt"]`."""
    return " it was good, and it was good."


app = seat_app("observer_0", partner, task="imdb")


def main():
    """Serve on the loopback interface."""
    uvicorn.run(app, host=HOST, port=8000)


if __name__ == "__main__":
    main()
