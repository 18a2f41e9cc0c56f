"""Bytes of all storages of tensors that are alive at once, by kind, at their peak.

torch.distributed._tools.mem_tracker counts in the same way, but refuses parameters that are not trained, and modules
that are called twice (torch 2.13).
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageCounter(TorchDispatchMode):
    """Counts within its context: what operations return, and what it is told of.

    What an operation allocates and frees again inside is not seen, but for the exponentials of logsumexp, which are as
    large as its input.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        """The kind of the tensors that operations return from now on."""
        self.peak: Counter[str] = Counter()
        """Kind -> bytes when all of them together were most."""
        self._now: Counter[str] = Counter()
        self._total, self._most = 0, 0
        self._known: dict[int, tuple[str, int, weakref.ref[Any]]] = {}
        """Address of a storage -> kind, bytes, and what calls back when it is freed."""

    def restart(self) -> None:
        """Forgets the peak, but not what is alive."""
        self._most = 0
        self._look()

    def know(self, kind: str, tensors: Iterable[Tensor | None]) -> None:
        """Counts these tensors as of this kind, and those that are known as of another one."""
        for tensor in tensors:
            if tensor is not None:
                self._count(tensor, kind, again=True)
        self._look()

    def know_gradients(self, kind: str, parameters: Iterable[nn.Parameter]) -> None:
        """Counts the gradients of these parameters as of this kind, once they are accumulated."""
        for parameter in parameters:
            hook: Any = parameter.register_post_accumulate_grad_hook
            hook(lambda parameter: self.know(kind, [parameter.grad]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._look(more=args[0].nbytes if func is torch.ops.aten.logsumexp.default else 0)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor, self.kind)
        self._look()
        return result

    def _count(self, tensor: Tensor, kind: str, *, again: bool = False) -> None:
        storage = tensor.untyped_storage()
        address: int = storage._cdata
        if address in self._known:
            if not again:
                return
            self._forget(address)
        size = storage.nbytes()
        self._known[address] = kind, size, weakref.ref(storage, lambda _: self._forget(address))
        self._now[kind] += size
        self._total += size

    def _forget(self, address: int) -> None:
        if (known := self._known.pop(address, None)) is not None:
            kind, size, _ = known
            self._now[kind] -= size
            self._total -= size

    def _look(self, more: int = 0) -> None:
        if self._total + more > self._most:
            self._most, self.peak = self._total + more, Counter(self._now)
            self.peak[self.kind] += more
