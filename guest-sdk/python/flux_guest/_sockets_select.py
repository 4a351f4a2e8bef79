"""Waiting for sockets: `select`, `poll` and `selectors`, made of ``net.poll``.

Libraries ask whether a connection that they kept is still good (is something to be
read, though nothing was asked?), and some wait for several at once. What can be said
without the host is: what was heard and not taken, and that a connection can always be
written to, since the host takes what it is given. The rest is one ``net.poll``.

A real descriptor is no socket of the function's: it is refused.
"""

import errno
import os
import select
import selectors
from collections.abc import Callable, Iterable
from typing import Any

from flux_guest._channel import Channel
from flux_guest._sockets import HostSocket, Network


class HostPoll:
    """As `select.poll` objects are."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._masks: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
        self._masks[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        if _number(fd) not in self._masks:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._masks[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        del self._masks[_number(fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait for events; the time limit is in milliseconds, as poll has it."""
        timeout_s = None if timeout is None or timeout < 0 else timeout / 1000
        events: dict[int, int] = {}
        readers: list[int] = []
        for number, mask in self._masks.items():
            if number not in self._network.sockets:
                events[number] = select.POLLNVAL
                continue
            events[number] = mask & select.POLLOUT
            if mask & select.POLLIN:
                readers.append(number)
        at_once = any(events.values())
        for number in _wait_readable(self._network, readers, 0.0 if at_once else timeout_s):
            events[number] |= select.POLLIN
        return [(number, found) for number, found in events.items() if found]


def _number(fd: Any) -> int:
    number = fd if isinstance(fd, int) else fd.fileno()
    if number < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    return int(number)


def _wait_readable(network: Network, numbers: Iterable[int], timeout_s: float | None) -> list[int]:
    """Return the descriptors of which something can be received, after waiting for the first."""
    ready: list[int] = []
    number_of_connection: dict[str, int] = {}
    for number in numbers:
        sock = network.sockets[number]
        if _has_something(sock) or sock.connection is None:
            ready.append(number)
        elif sock.is_read_ahead:
            continue  # By a transport of asyncio: nothing has come yet that it could have been told.
        else:
            number_of_connection[sock.connection] = number
    if number_of_connection:
        asked = list(number_of_connection)
        answer = network.ask("net.poll", [asked, 0 if ready else timeout_s])
        ready += [number_of_connection[connection] for connection in answer]
    elif not ready and timeout_s:
        network.channel.sleep(timeout_s)
    return sorted(ready)


def _has_something(sock: HostSocket) -> bool:
    return bool(sock.received) or sock.ended or sock.is_from_before


def take_over(channel: Channel, network: Network) -> None:
    """Put all of it in place; once, before the project's modules are imported."""
    real_select, real_poll = select.select, select.poll

    def host_select(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
        if not channel.running:
            return real_select(rlist, wlist, xlist, timeout)
        readers = {_known(network, one): one for one in rlist}
        writers = [one for one in wlist if _known(network, one)]
        for one in xlist:
            _known(network, one)
        found = _wait_readable(network, readers, 0.0 if writers else timeout)
        return [readers[number] for number in found], writers, []

    def host_poll() -> Any:
        return HostPoll(network) if channel.running else real_poll()

    def no_epoll(*arguments: Any, **options: Any) -> Any:
        if channel.running:
            raise PermissionError(
                errno.EPERM, "a function has no epoll: use select.poll or selectors.DefaultSelector"
            )
        return real_epoll(*arguments, **options)

    real_epoll: Callable[..., Any] = select.epoll
    select.select = host_select
    select.poll = host_poll  # type: ignore[assignment, misc]
    select.epoll = no_epoll  # type: ignore[assignment, misc]
    selectors.PollSelector._selector_cls = staticmethod(host_poll)  # type: ignore[attr-defined]
    selectors.SelectSelector._select = staticmethod(host_select)  # type: ignore[attr-defined]
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]


def _known(network: Network, one: Any) -> int:
    number = _number(one)
    if number not in network.sockets:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return number
