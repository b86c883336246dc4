"""Which slices to keep when not all fit."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from nnunet_dino.networks.fingerprint import Key


class Retention:
    """Chooses what to forget, from how the same keys came back before.

    nnU-Net's sliding window asks for a slice again at a few distances, counted in other slices asked for in between: at once
    (mirrored along ``d``), a whole layer of tiles later (tiles overlap along ``d``), and a whole image later (the next fold).
    Forgetting the least recently used one is right while a layer fits; below that, and from fold to fold, it forgets every
    slice just before it is asked for. So the distances are measured, and the first of these is forgotten:

    1. the youngest slice that is older than every distance seen: the next fold will ask for it last;
    2. the youngest that came back from a distance that does not fit: it has been in both layers that overlap;
    3. the youngest that is older than every distance that fits: the others of its layer stay;
    4. the oldest.

    Time is cut into generations, one per pass over an image. Where a generation asks mostly for new keys it is another image,
    and what only earlier generations asked for is forgotten first.

    Attributes:
        capacity: How many keys may be held.
    """

    def __init__(self) -> None:
        self.capacity = 0
        self._now = 0
        self._asked = _Timeline()
        self._awaited = _Timeline()
        self._done = _Timeline()
        self._longest = 0
        self._longest_that_fits = 0
        self.next_generation()

    def __len__(self) -> int:
        return len(self._awaited) + len(self._done)

    def __contains__(self, key: Key) -> bool:
        return key in self._awaited or key in self._done

    def set_capacity(self, capacity: int) -> None:
        """Changes how many keys may be held, from the next :meth:`shrink` on."""
        self.capacity = capacity
        if self._longest_that_fits > capacity:
            self._longest_that_fits = 0

    def next_generation(self) -> None:
        """Says that a new pass over an image begins."""
        self._generation_start = self._now + 1
        self._num_new = self._num_returned = 0

    def ask(self, keys: Iterable[Key]) -> None:
        """Takes note that ``keys`` (each once) are asked for, and holds them all until :meth:`shrink`."""
        for key in keys:
            timeline = self._done if self._came_from_afar(key) or key in self._done else self._awaited
            self._now += 1
            self._asked.append(key, self._now)
            self._awaited.discard(key)
            timeline.append(key, self._now)

    def shrink(self) -> list[Key]:
        """Returns the keys that are forgotten so that the rest fits."""
        forgotten = []
        if len(self) > self.capacity and self._num_new > self._num_returned:
            self._asked.pop_before(self._generation_start)
            for timeline in (self._done, self._awaited):
                forgotten += timeline.pop_before(self._generation_start)
        while len(self) > self.capacity:
            forgotten.append(self._pop_victim())
        return forgotten

    def _came_from_afar(self, key: Key) -> bool:
        last = self._asked.time_of(key)
        if last is None:
            self._num_new += 1
            return False
        if last < self._generation_start:
            self._num_returned += 1
            return False
        distance = self._asked.count_after(last)
        self._longest = max(self._longest, distance)
        if distance <= self.capacity:
            self._longest_that_fits = max(self._longest_that_fits, distance)
        return distance > self._longest_that_fits

    def _pop_victim(self) -> Key:
        far, near = (self._asked.time_back(distance) for distance in (self._longest, self._longest_that_fits))
        for timeline, time in ((self._awaited, far), (self._done, near), (self._awaited, near)):
            if number := timeline.count_before(time):
                return timeline.pop(number - 1)
        return (self._awaited if len(self._awaited) else self._done).pop(0)


class _Timeline:
    """Keys in the order of the time they were last put in."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._keys: list[Key] = []
        self._time_of: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return key in self._time_of

    def time_of(self, key: Key) -> int | None:
        return self._time_of.get(key)

    def append(self, key: Key, time: int) -> None:
        """Puts ``key`` in at ``time``, which is later than that of all others."""
        self.discard(key)
        self._times.append(time)
        self._keys.append(key)
        self._time_of[key] = time

    def discard(self, key: Key) -> None:
        if key in self._time_of:
            self.pop(bisect_left(self._times, self._time_of[key]))

    def pop(self, index: int) -> Key:
        del self._times[index]
        key = self._keys.pop(index)
        del self._time_of[key]
        return key

    def pop_before(self, time: int) -> list[Key]:
        number = self.count_before(time)
        gone = self._keys[:number]
        del self._times[:number], self._keys[:number]
        for key in gone:
            del self._time_of[key]
        return gone

    def count_before(self, time: int) -> int:
        return bisect_left(self._times, time)

    def count_after(self, time: int) -> int:
        return len(self._times) - bisect_right(self._times, time)

    def time_back(self, number: int) -> int:
        """Returns the time of the key that ``number`` others follow."""
        return self._times[max(0, len(self._times) - 1 - number)]
