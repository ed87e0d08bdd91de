"""Every public name of `analysis` has its malformed inputs."""

import inspect

from linlocal import analysis
from tests.malformed import test_local_losses, test_readouts, test_trainers, test_watching


def test_every_public_name_of_analysis_has_its_cases():
    """A new entry point brings its malformed inputs with it."""
    modules = (test_local_losses, test_readouts, test_trainers, test_watching)
    tried = {case.id.split(":")[0].split(".")[0] for module in modules for case in module.ALL}
    errors = {"CheckpointError", "LocalityError", "ResultError"}  # raised, not called
    names = {name for name in analysis.__all__ if not inspect.ismodule(getattr(analysis, name))}
    missing = names - tried - errors
    assert not missing, f"no malformed input is tried on {sorted(missing)}"
