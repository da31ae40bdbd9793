"""Configuration: one YAML file in, checked sections out.

`load.py` reads and merges, `sections.py` says what may be written, `objectives.py` what a training
objective asks of the sampling.
"""
