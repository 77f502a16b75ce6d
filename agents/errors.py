"""What may go wrong in a run without anybody's input being wrong."""


class DivergenceError(RuntimeError):
    """Losses or gradients are no longer finite."""


class EngineError(RuntimeError):
    """What generates the responses is not there, is not what the run needs, or has failed."""
