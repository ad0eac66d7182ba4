"""One file for each subcommand: its options, whose docstrings are the help texts, and what it does.

The files import jax and the rest of splax only when a command runs, so that ``--help`` answers at once.
"""
