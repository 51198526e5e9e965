"""Number formats under each of their names, for code that must not import torch or numpy.

:mod:`megatron_octo.common.torch_dtypes` holds the same formats as torch's.
"""

# A recipe's name -> torch's.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# torch's name -> safetensors'.
SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# Code in the header of a Megatron index file -> numpy's.
INDEX_CODES = dict(enumerate(["u1", "i1", "<i2", "<i4", "<i8", "<f8", "<f4", "<u2"], start=1))
