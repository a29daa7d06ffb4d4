"""Proxies to send calls through: HTTP CONNECT over TCP or TLS, and SOCKS5, with faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from ssl import SSLContext
from urllib.parse import quote


@dataclass
class Faults:
    """What is wrong with the proxy; nothing by default."""

    answer: bytes | None = None
    """Said to whoever asks for a tunnel, instead of everything; then it closes."""
    silent: bool = False
    """It takes connections and never says a word."""
    extra: bytes = b""
    """Sent with its answer, as if the origin had spoken first."""
    dies_after: int | None = None
    """Bytes of the origin's that it passes on before it resets both connections."""
    only_ports: tuple[int, ...] = ()
    """CONNECT is allowed to these; empty: to all."""
    piecemeal: bool = False
    """Its answer comes a byte at a time."""
    interim: bytes = b""


@dataclass
class Proxying:
    """A running proxy: what it was asked for and what went through it."""

    scheme: str
    port: int = 0
    user: str = ""
    password: str = ""
    faults: Faults = field(default_factory=Faults)
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Names that only this proxy can resolve."""
    connections: int = 0
    targets: list[str] = field(default_factory=list)
    """`host:port` of every tunnel, as asked."""
    refused: int = 0
    passed: bytearray = field(default_factory=bytearray, repr=False)
    """What clients sent into tunnels."""
    open: int = 0
    clients: set[asyncio.StreamWriter] = field(default_factory=set, repr=False)

    @property
    def url(self) -> str:
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{self.scheme}://{who}{self.host}:{self.port}"

    def hang_up(self) -> None:
        """End every connection, tunnels that are kept included."""
        for writer in list(self.clients):
            writer.transport.abort()

    @property
    def host(self) -> str:
        return "localhost" if self.scheme == "https" else "127.0.0.1"


@asynccontextmanager
async def proxying(
    scheme: str,
    *,
    user: str = "",
    password: str = "",
    faults: Faults | None = None,
    hosts: Mapping[str, str] | None = None,
    ssl_context: SSLContext | None = None,
) -> AsyncIterator[Proxying]:
    """`scheme` http, https (with `ssl_context`) or socks5."""
    seen = Proxying(scheme, user=user, password=password, faults=faults or Faults(), hosts=hosts or {})
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        seen.open += 1
        seen.clients.add(writer)
        try:
            await _serve(seen, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            seen.open -= 1
            seen.clients.discard(writer)
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=ssl_context)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(seen: Proxying, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if seen.faults.silent:
        await reader.read(-1)
        return
    if seen.faults.answer is not None:
        await reader.read(1)
        writer.write(seen.faults.answer)
        await writer.drain()
        return
    await (_socks if seen.scheme == "socks5" else _http)(seen, reader, writer)


async def _http(seen: Proxying, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines[1:] if line)}
    if seen.user:
        wanted = "Basic " + b64encode(f"{seen.user}:{seen.password}".encode()).decode()
        if headers.get("proxy-authorization") != wanted:
            seen.refused += 1
            writer.write(b'HTTP/1.1 407 Nope\r\nproxy-authenticate: Basic realm="x"\r\ncontent-length: 0\r\n\r\n')
            await writer.drain()
            return
    assert method == "CONNECT"
    host, _, port_text = target.rpartition(":")
    if seen.faults.only_ports and int(port_text) not in seen.faults.only_ports:
        seen.refused += 1
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!\n")
        await writer.drain()
        return
    seen.targets.append(target)
    answer = seen.faults.interim + b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n" + seen.faults.extra
    failed = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
    await _splice(seen, host.strip("[]"), int(port_text), reader, writer, answer=answer, failed=failed)


async def _socks(seen: Proxying, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    version, count = await reader.readexactly(2)
    assert version == 5
    methods = await reader.readexactly(count)
    wanted = 2 if seen.user else 0
    if wanted not in methods:
        seen.refused += 1
        writer.write(b"\x05\xff")
        await writer.drain()
        return
    await _say(seen, writer, bytes((5, wanted)))
    if wanted == 2:
        assert await reader.readexactly(1) == b"\x01"
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        right = (user.decode(), password.decode()) == (seen.user, seen.password)
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        await writer.drain()
        if not right:
            seen.refused += 1
            return
    version, command, _, kind = await reader.readexactly(4)
    assert (version, command) == (5, 1)
    if kind == 3:
        host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    else:
        host = str(ip_address(await reader.readexactly(4 if kind == 1 else 16)))
    port = int.from_bytes(await reader.readexactly(2), "big")
    seen.targets.append(f"{host}:{port}")
    answer = b"\x05\x00\x00\x03\x09localhost\x12\x34" + seen.faults.extra
    await _splice(seen, host, port, reader, writer, answer=answer, failed=b"\x05\x05\x00\x01" + bytes(6))


async def _splice(
    seen: Proxying,
    host: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    answer: bytes = b"",
    failed: bytes = b"",
) -> None:
    try:
        there, back = await asyncio.open_connection(seen.hosts.get(host, host), port)
    except OSError:
        writer.write(failed)
        await writer.drain()
        return
    await _say(seen, writer, answer)
    passed_back = 0

    async def out() -> None:
        while data := await reader.read(65536):
            seen.passed += data
            back.write(data)
            await back.drain()

    async def home() -> None:
        nonlocal passed_back
        while data := await there.read(65536):
            passed_back += len(data)
            if seen.faults.dies_after is not None and passed_back > seen.faults.dies_after:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            writer.write(data)
            await writer.drain()

    tasks = [asyncio.ensure_future(out()), asyncio.ensure_future(home())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        with suppress(OSError):
            if not seen.faults.dies_after:
                await writer.drain()
    finally:
        back.transport.abort()  # first: a second cancellation may come in the next line but one
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _say(seen: Proxying, writer: asyncio.StreamWriter, data: bytes) -> None:
    for piece in [data[at : at + 1] for at in range(len(data))] if seen.faults.piecemeal else [data]:
        writer.write(piece)
        await writer.drain()
        if seen.faults.piecemeal:
            await asyncio.sleep(0)
