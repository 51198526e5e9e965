"""The machinery that every conversion shares: planned block copies, resumable outputs, files of torch.save.

No format of a model and no name of a tensor is known here.
"""
