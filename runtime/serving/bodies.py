"""Bodies of requests: how large one may be, and all that are held together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Send

MAX_BODY = 16 * 2**20
MOST_AT_ONCE = 4 * MAX_BODY

Refusal = tuple[int, str]
"""Status and sentence."""

TOO_LARGE: Refusal = 413, f"the body may have {MAX_BODY} bytes; send less"


class Bodies:
    """Bytes of all bodies that are held or announced. For one thread."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """Return whether there is room for so many bytes, and count them if so."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size


class Body:
    """One body on its way to an application, whose room is given back when the block ends.

    `refusal` says why it was cut off: then the application sees a peer that is gone, and what it
    answers is dropped, so that the peer can be told the reason.
    """

    def __init__(self, bodies: Bodies, receive: Receive, send: Send) -> None:
        self.refusal: Refusal | None = None
        self.is_answered = False
        self._bodies = bodies
        self._receive = receive
        self._send = send
        self._room = 0
        self._size = 0

    def expect(self, size: int) -> None:
        """Take the room for a body of so many bytes, or refuse it."""
        if size > MAX_BODY:
            self.refusal = TOO_LARGE
        elif not self._bodies.take(size - self._room):
            self.refusal = 503, "too many bodies are being sent; ask again in a second"
        else:
            self._room = size

    async def receive(self) -> Any:
        if self.refusal is None:
            message = await self._receive()
            self._size += len(message.get("body", b""))
            # One that did not say its length takes room as it comes.
            if self._size > self._room:
                self.expect(self._size)
        return message if self.refusal is None else {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.refusal is None or self.is_answered:
            self.is_answered = True
            await self._send(message)

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *ended: object) -> None:
        self._bodies.give_back(self._room)
        self._room = 0
