"""The command line: a file for each group of commands, which parses, calls and prints.

Exit codes: 0 fine, 1 error, 2 usage or config, 3 too many rollouts failed, 130 interrupted and
resumable. What a command does lives in the folder of its name.
"""
