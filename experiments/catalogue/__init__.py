"""The experiments: every module in this folder is one, see `experiments.runner.registry`."""
