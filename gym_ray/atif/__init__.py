"""ATIF, the Agent Trajectory Interchange Format of the Harbor framework: rollouts out and in.

The format is RFC 0001 of github.com/harbor-framework/harbor (`rfcs/0001-trajectory-format.md`).
We write version 1.7 and read 1.0 to 1.8.
"""
