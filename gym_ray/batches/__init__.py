"""Batches: many rollouts asked for at once, answered one by one, each exactly once.

`ledger.py` decides and does nothing else, `host.py` does what it decides, `protocol.py` is what a
backend offers the gateway, `pages.py` how results travel. Knows no
HTTP: the gateway has the routes.
"""
