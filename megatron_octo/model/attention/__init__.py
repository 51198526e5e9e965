"""Attention of packed documents: its back ends, how one is chosen and checked on this GPU, and rotary positions.

Nothing here depends on the layers that call it: both megatron-core's and the fused ones do.
"""
