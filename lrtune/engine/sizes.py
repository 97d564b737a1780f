"""Sizes: how many rows a program runs where each number of them has to be compiled first."""

WORTH_COMPILING = 2.0  # a smaller program must save this many times what compiling it takes
COMPILING = 60.0  # seconds at the least: what took less may have come from the compiler's cache


class Sizes:
    """The sizes that are compiled, what an update takes at each, and what compiling takes."""

    def __init__(self) -> None:
        self._pace: dict[int, float] = {}  # seconds an update, by size
        self._compiling = COMPILING

    def fit(self, needed: int, most: int, updates: int) -> int:
        """The size at which to run.

        Args:
            needed: rows that there are.
            most: rows that there may be; idle ones run along for nothing.
            updates: that are still to come, at the most.
        """
        ready = min((size for size in self._pace if needed <= size <= most), default=None)
        if ready is None:  # the largest is what was tried out, and is in the compiler's cache
            return most
        target = most
        while needed <= -(-target // 2) < target:
            target = -(-target // 2)
        if target >= ready:
            return ready
        saved = updates * self._pace[ready] * (1 - target / ready)
        return target if saved > WORTH_COMPILING * self._compiling else ready

    def took(self, size: int, first: float, rest: float) -> None:
        """Take in the seconds of the first update of some, and of each that followed."""
        if size not in self._pace:
            self._compiling = max(self._compiling, first)
        self._pace[size] = rest
