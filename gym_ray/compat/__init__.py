"""NeMo Gym's commands, on ours: their arguments in, our pipeline, their files beside ours.

Owned here: what their arguments and config files mean to us, and which files they expect where.
Not owned here: collecting, preparing and the shape of a row, which are ours.
"""
