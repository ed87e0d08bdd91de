"""Every public name of linlocal has its malformed inputs."""

import linlocal as ll
from tests.malformed import test_networks, test_pairs, test_rules, test_updates


def test_every_public_name_of_linlocal_has_its_cases():
    """A new entry point brings its malformed inputs with it."""
    modules = (test_networks, test_pairs, test_rules, test_updates)
    tried = {case.id.split(":")[0].split(".")[0] for module in modules for case in module.ALL}
    raised_or_returned = {"ConvergenceError", "Projection"}  # nobody calls them
    elsewhere = {
        "rhm",
        "symbolic",
        "analysis",
        "conditions",
        "plots",
    }  # test_rhm.py, test_symbolic.py, ../linlocal/test_plots.py; `explain` is of conditions
    missing = set(ll.__all__) - tried - raised_or_returned - elsewhere
    assert not missing, f"no malformed input is tried on {sorted(missing)}"
