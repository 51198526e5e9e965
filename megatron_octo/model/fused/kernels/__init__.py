"""Triton kernels of the fused layers, their reference in plain torch, and the dispatch between the two by device.

No module here holds parameters, uses autograd or communicates.
"""
