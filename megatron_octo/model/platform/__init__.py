"""Ground under the networks: importing megatron-core, running it on a CPU, process groups, optional libraries.

Nothing here knows an architecture or a recipe.
"""
