"""What was computed lately, kept for whoever asks again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The values, none of them None, of the most recently asked keys, shared between threads.

    Values are functions of their keys and the model alone, so sharing them between users reveals
    nothing that the asker does not already hold.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `key`, computed if it is not there; two threads may both compute it."""
        found = self.find(key)
        return self.keep(key, compute()) if found is None else found

    def find(self, key: Hashable) -> T | None:
        """The value of `key` if it is there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def keep(self, key: Hashable, value: T) -> T:
        """Puts a value there, in the place of the longest unasked one if need be; returns it."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value
