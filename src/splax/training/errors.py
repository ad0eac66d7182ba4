"""Errors of runs that cannot continue."""


class NonFiniteError(FloatingPointError):
    """The loss, a gradient or a Param became NaN or infinite for the second time in a run.

    The first time, the run goes back to an earlier state and makes smaller updates. The model holds the last good
    state; the message names the step, the view and the Param.

    Example:
        >>> import splax
        >>> try:  # as trainer.fit() would raise it
        ...     raise splax.NonFiniteError("not finite at step 120, view '004.png': loss nan")
        ... except FloatingPointError as error:
        ...     print("stopped:", error)
        stopped: not finite at step 120, view '004.png': loss nan
    """


class NoGaussianError(RuntimeError):
    """Pruning would leave no Gaussian alive. The model holds the state before the pruning.

    Example:
        >>> import splax
        >>> try:  # as trainer.fit() would raise it
        ...     raise splax.NoGaussianError("pruning after step 600 left no Gaussian alive")
        ... except RuntimeError as error:
        ...     print("stopped:", error)
        stopped: pruning after step 600 left no Gaussian alive
    """


class OutOfMemoryError(MemoryError):
    """The device has too little memory. The model holds the last good state; the message says what would help.

    Example:
        >>> import splax
        >>> try:  # as trainer.fit() would raise it
        ...     raise splax.OutOfMemoryError("the device ran out of memory with room for 9,000,000 Gaussians")
        ... except MemoryError as error:
        ...     print("stopped:", error)
        stopped: the device ran out of memory with room for 9,000,000 Gaussians
    """
