"""Configuration: one YAML file in, checked sections out.

`load.py` reads and merges. `policy.py`, `environment.py`, `deployment.py` and `commands.py` are the
sections: one small pydantic model each, a docstring under each field, with keys, defaults and
ranges. `objectives.py` is what a training objective asks of the sampling.
"""
