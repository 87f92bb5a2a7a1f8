"""The body of a request, looked at before the application behind sees it."""

from __future__ import annotations

from dataclasses import dataclass

from flows.servers.guard import Message, Receive

MOST_BYTES = 4_000_000
"""Longer ones go by unread. A recipe's text is at most 100,000 characters; Prefect takes 512 KB."""


@dataclass(frozen=True)
class Body:
    """The received messages of a request."""

    content: bytes
    is_whole: bool
    """Whether this is all of it."""
    _after: tuple[Message, ...]
    _receive: Receive

    def again(self, content: bytes | None = None) -> Receive:
        """A function that gives the application the body, with another content if there is one."""
        sent = self.content if content is None else content
        first: Message = {"type": "http.request", "body": sent, "more_body": not self.is_whole}
        waiting = [first, *self._after]

        async def receiving() -> Message:
            return waiting.pop(0) if waiting else await self._receive()

        return receiving


async def take_body(receive: Receive) -> Body:
    """Receive a body, as far as it is no longer than `MOST_BYTES`."""
    content, more = b"", True
    while more and len(content) <= MOST_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return Body(content, False, (message,), receive)
        content += message.get("body", b"")
        more = message.get("more_body", False)
    return Body(content, not more, (), receive)
