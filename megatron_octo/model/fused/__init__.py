"""The fused layers of GPTBigCode: fewer passes over memory than megatron-core's layers, the same numbers.

Modules here hold parameters and gradients of layers; kernels, matrix products and communication have their own rooms.
"""
