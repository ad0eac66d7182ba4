"""How the programs of training are compiled, on a pretended GPU."""

import jax
import pytest

from splax.training.runtime.compiled import compile_lowered


class Lowered:
    """Compiles, or fails in the words of XLA."""

    def __init__(self, error=None):
        self.error, self.asked = error, []

    def compile(self, compiler_options=None):
        self.asked.append(compiler_options)
        if self.error is not None and compiler_options is not None:
            raise jax.errors.JaxRuntimeError(self.error)
        return "compiled"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_gpu_does_not_try_out_operations_beside_the_state(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    lowered = Lowered()
    assert compile_lowered(lowered) == "compiled"
    (options,) = lowered.asked
    assert (options or {}).get("xla_gpu_experimental_enable_fusion_autotuner", True) == (platform == "cpu")


def test_an_xla_that_does_not_know_the_option_compiles_without_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # What jax 0.10 and 0.11 say of an option that they do not know.
    unknown = Lowered(
        "INVALID_ARGUMENT: No such compile option: 'xla_gpu_experimental_enable_fusion_autotuner'"
    )
    assert compile_lowered(unknown) == "compiled" and unknown.asked[-1] is None
    failing = Lowered("INTERNAL: ptxas exited with non-zero error code 2")
    with pytest.raises(jax.errors.JaxRuntimeError, match="ptxas"):
        compile_lowered(failing)
    assert len(failing.asked) == 1


def test_the_option_is_one_of_xla():
    """On a CPU too: unknown ones are refused."""
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    options: dict[str, str | bool] = {"xla_gpu_experimental_enable_fusion_autotuner": False}
    assert lowered.compile(compiler_options=options)(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={"xla_gpu_no_option_of_this_name": False})
