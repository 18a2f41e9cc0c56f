"""The errors by which torch, and the libraries below it, report that memory cannot be allocated."""

import errno
import re

import torch

PHRASES = (
    "can't allocate memory",  # torch's allocator on CPUs
    "Cannot allocate memory",  # the system, in the errors of mmap and of shared memory
    "CUDA error: out of memory",  # torch.AcceleratorError: outside of torch's caching allocator, page-locked memory
    "CUDA driver error: out of memory",  # expandable segments
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "Cuda failure 2 'out of memory'",  # NCCL, in torch.distributed.DistBackendError
    "Cuda failure 'out of memory'",  # NCCL before 2.26
    "Failed to CUDA calloc",
    "Failed to CUDA malloc",
    "Failed to CUDA host alloc",
    "std::bad_alloc",
)
"""What the message of a RuntimeError contains when memory is short. Each is the text of the library itself: torch
c10/cuda, c10/core/impl/alloc_cpu.cpp and ATen/cuda/Exceptions.h, NCCL src/include/checks.h and alloc.h."""
FIRST_USE = re.compile(r"CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate|CUDNN_STATUS_NOT_INITIALIZED", re.DOTALL)
"""What cuBLAS and cuDNN report when there is no memory for their own state; also after other faults of the device."""
LEAST_FREE = 2**28
"""With less free memory on a GPU, FIRST_USE means that memory is short: cuBLAS and cuDNN take about half of this."""
UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def is_memory_error(error: BaseException, *, free: int | None = None) -> bool:
    """Whether memory could not be allocated: of a GPU, of the machine, or page-locked.

    `free` is the free memory of the rank's GPU in bytes, if it is known. An error that was raised from such an error is
    one, too (DeepSpeed's and the compiler's).
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError):
        text = str(error)
        if any(phrase in text for phrase in PHRASES):
            return True
        if free is not None and free < LEAST_FREE and FIRST_USE.search(text):
            return True
    return error.__cause__ is not None and is_memory_error(error.__cause__, free=free)


def requested_bytes(error: BaseException) -> int:
    """The bytes that the error, or the one that it was raised from, names as requested; 0 if it names none."""
    found = re.search(r"(?:allocate|alloc|malloc|calloc async) ([\d.]+) (bytes|KiB|MiB|GiB|B)\b", str(error))
    if found:
        return round(float(found[1]) * UNITS[found[2]])
    return requested_bytes(error.__cause__) if error.__cause__ is not None else 0
