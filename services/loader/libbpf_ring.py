"""A reader of a BPF ring buffer, through libbpf, which maps the ring into this process and knows its barriers.

The part of `libbpf.py` that `events.py` alone uses. Nothing waits here: the map's descriptor is readable when there is
something to read, which is what an event loop asks.
"""

import ctypes

from services.loader.libbpf_abi import BpfError, Fd, check, library

# context, record, size
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_ENOUGH = -1


class Ring:
    """The records of one ring buffer. `close` when done."""

    def __init__(self, fd: Fd) -> None:
        """Map the ring. The descriptor must stay open."""
        self._records: list[bytes] = []
        self._limit = 0
        self._sample = _SAMPLE(self._take)  # libbpf keeps the pointer
        self._handle = library().ring_buffer__new(fd.fileno(), self._sample, None, None)
        if not self._handle:
            raise BpfError(ctypes.get_errno(), "ring_buffer__new", fd.about)
        self._about = fd.about

    def _take(self, _context: int, address: int, size: int) -> int:
        self._records.append(ctypes.string_at(address, size))
        return _ENOUGH if len(self._records) >= self._limit else 0

    def read(self, limit: int) -> list[bytes]:
        """Return the next records, oldest first, at most `limit` of them; none is an answer, too."""
        self._records, self._limit = [], limit
        result = library().ring_buffer__consume(self._handle)
        if result != _ENOUGH:
            check(result, "ring_buffer__consume", self._about)
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        """Unmap the ring; twice is harmless."""
        handle, self._handle = self._handle, None
        if handle:
            library().ring_buffer__free(handle)
