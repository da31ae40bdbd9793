"""A run on disk: what is written where, and how it is read again.

`places.py` opens paths, local or in an object store; `schema.py`, `columns.py` and `rows.py` are
the row; `segments.py` is what is durable so far, `index.py` what there is. The whole is
`StoredRun` to whoever reads it, and `RunDirectory` to the one command that writes it. Not owned
here: what a rollout is (the nouns at the root), and when it is written (collection).
"""

from gym_ray.store.stored_run import StoredRun

__all__ = ["StoredRun"]
