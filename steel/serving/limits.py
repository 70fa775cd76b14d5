"""What a service takes on at most, and what it says to those whom it refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BUSY = 503


@dataclass(frozen=True)
class Limits:
    """Bounds of one service."""

    body_bytes: int = 32_000_000
    """Of one request's image file."""
    pixels: int = 64_000_000
    """Of one image."""
    places: int = 64
    """Requests under way whose image has arrived."""
    upload_bytes: int = 256_000_000
    """Held of all requests together."""
    pixels_held: int = 256_000_000
    """Of the images of all requests together."""
    batch_wait_s: float = 0.005
    """How long an image waits for others that could share its forward pass."""
    upload_s: float = 20.0
    """From a request's first line to the last byte of its image."""
    head_s: float = 10.0
    """From opening a connection, or from the first byte of a further request, to the end of the request's headers."""
    unread_s: float = 60.0
    """How long a client may take to read a response."""
    connections: int = 512
    """Open at once; who opens a further one is refused."""
    stop_s: float = 60.0
    """How long what is under way may take after SIGTERM."""


class Refusal(Exception):
    """A request that is not served; the message is one line that says what is wrong and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""


class Quota:
    """A bound on what all requests hold together. Used in the event loop's thread alone."""

    def __init__(self, limit: int, what: str) -> None:
        """Bound it.

        Args:
            limit: the sum of all holds.
            what: it is that there is too much of, for those who are refused.
        """
        self.limit = limit
        self.taken = 0
        self._what = what

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """A hold, empty at first, that is given back at the end of the block."""
        held = Hold(self)
        try:
            yield held
        finally:
            self.taken -= held.amount

    def check(self, amount: int) -> None:
        """Raises Refusal where so much more would be too much."""
        if self.taken + amount > self.limit:
            raise Refusal(BUSY, f"too busy: {self._what}; try again in a second")


class Hold:
    """One request's part of a quota."""

    def __init__(self, quota: Quota) -> None:
        self.amount = 0
        self._quota = quota

    def add(self, amount: int) -> None:
        """Take more.

        Raises:
            Refusal: the quota is used up.
        """
        self._quota.check(amount)
        self._quota.taken += amount
        self.amount += amount
