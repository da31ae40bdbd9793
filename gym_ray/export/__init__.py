"""Training datasets made of rollouts: `gym-ray export rl|sft|dpo|chat|nemo-gym`.

Owned here: which rollouts are taken, the rows of each objective, the card. Not owned here: how a
run is read (store) and how a dataset travels (hub).
"""
