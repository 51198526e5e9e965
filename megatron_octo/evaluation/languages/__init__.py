"""From a solution to a verdict: toolchains, assembly of programs, compilation and execution in the sandbox.

Models and scores over many samples do not belong here.
"""
