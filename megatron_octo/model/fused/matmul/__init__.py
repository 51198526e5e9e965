"""Matrix products of the fused layers in bf16, fp32 and fp8, and the buffers that their weight gradients go to.

Kernels that are not matrix products belong into ``kernels``.
"""
