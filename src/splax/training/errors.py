"""Why a run cannot go on."""


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became NaN or infinite; the model holds the state before that step."""


class NoGaussianError(RuntimeError):
    """Pruning would leave no Gaussian alive; the model holds the state before it."""
