"""Failures of a run that are not the user's mistake; a mistake is a `ValueError`."""


class DivergenceError(RuntimeError):
    """Losses or gradients are no longer finite."""


class ProcessError(RuntimeError):
    """A rank of a run has lost its connection to another one."""


class EngineError(RuntimeError):
    """An engine is missing, does not fit the run, or has failed."""


class PlayError(RuntimeError):
    """An environment of somebody else's has failed, or does not keep to its interface."""


class LostError(PlayError):
    """An environment elsewhere cannot be reached; it may be again later."""
