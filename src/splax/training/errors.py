"""Why a run cannot go on."""


class NonFiniteError(FloatingPointError):
    """The loss, a gradient or a Param became NaN or infinite, twice; the model holds the last good state."""


class NoGaussianError(RuntimeError):
    """Pruning would leave no Gaussian alive; the model holds the state before it."""


class OutOfMemoryError(MemoryError):
    """The device has too little memory; the model holds the last good state."""
