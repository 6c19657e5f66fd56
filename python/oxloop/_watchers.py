"""Watching file descriptors (asyncio's section of that name)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._base import LoopBase

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike
    from typing_extensions import TypeVarTuple, Unpack

    _Ts = TypeVarTuple("_Ts")

_READ = 1
_WRITE = 2


class WatcherMixin(LoopBase):
    """`add_reader`, `remove_reader`, `add_writer`, `remove_writer`.

    They take a descriptor or an object with a `fileno` method. One that a transport owns is
    refused with RuntimeError, one that is none with ValueError.
    """

    # Descriptor -> the object it was given as, and how it is watched: an object that was closed
    # meanwhile, and has no descriptor any more, can still be removed.
    _watched_objects: dict[int, tuple[Any, int]]

    def __init__(self) -> None:
        super().__init__()
        self._watched_objects = {}

    def close(self) -> None:
        """Closes the loop; nothing is watched any more."""
        super().close()
        self._watched_objects.clear()

    def add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], Any], *args: Unpack[_Ts]
    ) -> None:
        """Calls ``callback(*args)`` whenever `fd` is readable; replaces an earlier reader."""
        self._ensure_fd_no_transport(fd)
        self._check_closed()
        fileno = self._descriptor_of(fd)
        self._add_reader(fileno, callback, *args)
        self._remember(fileno, fd, _READ)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Stops watching `fd` for reading; whether it was watched."""
        self._ensure_fd_no_transport(fd)
        if self.is_closed():
            return False
        fileno = self._descriptor_of(fd)
        self._forget(fileno, _READ)
        return self._remove_reader(fileno)

    def add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], Any], *args: Unpack[_Ts]
    ) -> None:
        """Calls ``callback(*args)`` whenever `fd` is writable; replaces an earlier writer."""
        self._ensure_fd_no_transport(fd)
        self._check_closed()
        fileno = self._descriptor_of(fd)
        self._add_writer(fileno, callback, *args)
        self._remember(fileno, fd, _WRITE)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Stops watching `fd` for writing; whether it was watched."""
        self._ensure_fd_no_transport(fd)
        if self.is_closed():
            return False
        fileno = self._descriptor_of(fd)
        self._forget(fileno, _WRITE)
        return self._remove_writer(fileno)

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        transport = self._transport_of(fd if isinstance(fd, int) else _fileno(fd))
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _descriptor_of(self, fd: Any) -> int:
        fileno = _fileno(fd)
        if fileno >= 0:
            return fileno
        for known, (watched, _) in self._watched_objects.items():
            if watched is fd:
                return known
        raise ValueError(f"Invalid file descriptor: {fileno}")

    def _remember(self, fileno: int, fd: Any, kind: int) -> None:
        if isinstance(fd, int):
            return
        known, kinds = self._watched_objects.get(fileno, (fd, 0))
        if known is not fd and not _is_open(known):
            # Its number is another file's now: what was to hear of it does not.
            if kinds & ~kind & _READ:
                self._remove_reader(fileno)
            if kinds & ~kind & _WRITE:
                self._remove_writer(fileno)
            kinds = 0
        self._watched_objects[fileno] = (fd, kinds | kind)

    def _forget(self, fileno: int, kind: int) -> None:
        entry = self._watched_objects.get(fileno)
        if entry is None:
            return
        watched, kinds = entry
        kinds &= ~kind
        if kinds:
            self._watched_objects[fileno] = (watched, kinds)
        else:
            del self._watched_objects[fileno]


def _is_open(fd: Any) -> bool:
    try:
        return _fileno(fd) >= 0
    except ValueError:
        return False


def _fileno(fd: Any) -> int:
    if isinstance(fd, int):
        return fd
    try:
        return int(fd.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fd!r}") from None
