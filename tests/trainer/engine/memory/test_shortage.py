"""Every form in which memory runs out is recognized, and nothing else is."""

import errno

import pytest
import torch

from shardtune.trainer.engine.memory.shortage import is_memory_error, requested_bytes

AcceleratorError = torch.AcceleratorError
FORMS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total …"), 2 * 2**30),
    (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), round(7.45 * 2**30)),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to "
                  "allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"), 40000000000),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), 0),
    (RuntimeError("CUDA driver error: out of memory"), 0),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 0),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 0),
    (torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:2251, unhandled cuda error\nncclUnhandled"
                  "CudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"), 0),
    (torch.distributed.DistBackendError("NCCL error …\nLast error:\nFailed to CUDA calloc async 608 bytes"), 608),
    (RuntimeError("unable to mmap 1024 bytes from file <x>: Cannot allocate memory (12)"), 0),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 0),
]  # fmt: skip
OTHERS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"),
    torch.distributed.DistBackendError("NCCL error …\nLast error:\nCuda failure 700 'an illegal memory access'"),
    KeyError("can't allocate memory"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize(("error", "num_bytes"), FORMS, ids=lambda form: str(form)[:40])
def test_a_lack_of_memory_is_recognized_in_every_form_with_what_was_requested(error: Exception, num_bytes: int) -> None:
    assert is_memory_error(error)
    assert requested_bytes(error) == num_bytes


def test_the_gpus_own_error_is_one() -> None:
    error = AcceleratorError("CUDA error: out of memory")
    assert is_memory_error(error) and not is_memory_error(AcceleratorError("CUDA error: unspecified launch failure"))


def test_what_is_raised_from_a_lack_of_memory_is_one() -> None:
    error = RuntimeError("backend='inductor' raised")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")
    assert is_memory_error(error) and requested_bytes(error) == 512 * 2**20


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:40])
def test_nothing_else_is_a_lack_of_memory(error: Exception) -> None:
    assert not is_memory_error(error, free=0)


def test_a_library_that_cannot_start_is_short_of_memory_only_where_the_gpu_is_full() -> None:
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert is_memory_error(error, free=2**20)
    assert not is_memory_error(error, free=2**33) and not is_memory_error(error)
