"""`python -m agents`."""

import sys

import agents

if "TrainConfig" in getattr(agents, "__all__", ()):
    from agents.cli.main import main
else:  # another distribution has put its package over ours
    from cory_agents import main  # it says so

sys.exit(main())
