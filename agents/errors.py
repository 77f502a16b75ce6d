"""Failures of a run that are no mistake of the user; those are `ValueError`s."""


class DivergenceError(RuntimeError):
    """Losses or gradients are no longer finite."""


class ProcessError(RuntimeError):
    """One of the processes of a run is gone."""


class EngineError(RuntimeError):
    """What generates the responses is not there, is not what the run needs, or has failed."""
