"""Policies: engines that turn prompt tokens into sampled tokens.

`engine.py` is the protocol every engine implements; each other module is one engine.
Nothing here knows messages, environments or Ray.
"""
