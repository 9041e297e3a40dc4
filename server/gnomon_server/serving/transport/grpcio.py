"""gRPC over the public asyncio server of grpcio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

from gnomon_server.errors import GnomonError, Internal, InvalidRequest, NotOffered
from gnomon_server.serving.transport import AfterPass, Call, Methods, Observer, Stream, Unary, broken_off, status_text
from gnomon_server.serving.transport.tls import Reloaded, Tls, context

# Calls that have come and are not begun.
MOST_PENDING: Final = 1 << 16

log = logging.getLogger(__name__)


class GrpcioTransport:
    """Serves a method table on one address, which other processes may share."""

    def __init__(
        self,
        methods: Methods,
        observer: Observer,
        after_pass: AfterPass,
        address: str,
        max_message_bytes: int,
        tls: Tls | None = None,
    ) -> None:
        """Raises InvalidRequest if the files for TLS cannot be used."""
        self._address = address
        self._credentials = None if tls is None else _credentials(tls)
        self._server = grpc.aio.server(
            handlers=(_Handlers(methods, observer, after_pass),),
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                # Above so many that wait for their turn, whoever sent them, grpc-core cancels some by lot; its own
                # limit of a thousand is what a few good clients need.
                ("grpc.server.max_pending_requests", MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
            ),
        )

    async def start(self) -> int:
        """Begins to listen; returns the port, raises InvalidRequest if the address cannot be had."""
        try:
            port: int = (
                self._server.add_insecure_port(self._address)
                if self._credentials is None
                else self._server.add_secure_port(self._address, self._credentials)
            )
        except RuntimeError:
            raise InvalidRequest(f"cannot listen on {self._address}: in use, or not an address of this host") from None
        await self._server.start()
        return port

    async def drain(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for those in flight, then closes."""
        await self._server.stop(grace)


class _Handlers(grpc.GenericRpcHandler):
    """Looks methods up; messages stay bytes, so that a malformed one is the handler's to refuse."""

    def __init__(self, methods: Methods, observer: Observer, after_pass: AfterPass) -> None:
        self._observer = observer
        self._after_pass = after_pass
        self._handlers = {f"/{name}": self._handler(name, method) for name, method in methods.items()}

    def service(self, handler_call_details: Any) -> Any:
        handler = self._handlers.get(handler_call_details.method)
        return handler or self._refusing(handler_call_details.method)

    def _handler(self, name: str, method: Unary | Stream) -> Any:
        if isinstance(method, Stream):
            return self._streaming(name, method)

        async def unary(message: bytes, context: Any) -> bytes:
            call = _GrpcioCall(name, message, context)
            try:
                method.handle(call)
                self._after_pass()
                if not call.end.done():
                    await call.end
                answer = call.end.result()
                await call.send_metadata()
            except Exception as error:
                await self._abort(call, error)
                raise
            except asyncio.CancelledError:
                call.ended = True
                self._observer(((call, broken_off(call)),))
                raise
            self._observer(((call, "OK"),))
            return answer

        return grpc.unary_unary_rpc_method_handler(unary)

    def _streaming(self, name: str, method: Stream) -> Any:
        async def stream(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = _GrpcioCall(name, b"", context)
            try:
                async with aclosing(method.handle(call, messages)) as answers:  # type: ignore[type-var]
                    async for message in answers:
                        await call.send_metadata()
                        yield message
                await call.send_metadata()
            except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status, never a stack trace
                await self._abort(call, error)
            except (asyncio.CancelledError, GeneratorExit):
                self._observer(((call, broken_off(call)),))
                raise
            else:
                self._observer(((call, "OK"),))

        return grpc.stream_stream_rpc_method_handler(stream)

    def _refusing(self, path: str) -> Any:
        async def refuse(_: Call, __: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            name = path.rpartition("/")[2].encode("ascii", "backslashreplace").decode()[:64]
            raise NotOffered(f"method '{name}' is not offered")
            yield b""

        return self._streaming("_OTHER", Stream(refuse))

    async def _abort(self, call: _GrpcioCall, error: Exception) -> None:
        if not isinstance(error, GnomonError):
            log.error("%s failed", call.method, exc_info=error)
            error = Internal("internal error")
        self._observer(((call, error.status),))
        await call.send_metadata()
        await call.context.abort(grpc.StatusCode[error.status], status_text(str(error)))


class _GrpcioCall(Call):
    def __init__(self, method: str, message: bytes, context: Any) -> None:
        super().__init__(method, message)
        self.context = context
        # grpcio's core frees what it knows of a call at its end; whoever asks for it afterwards crashes the process.
        self._peer: str = context.peer()
        self._metadata: tuple[tuple[str, str | bytes], ...] = context.invocation_metadata() or ()
        self.end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._sent_initial = False

    def metadata(self, key: str) -> str | None:
        for name, value in self._metadata:
            if name == key:
                return value if isinstance(value, str) else None
        return None

    def binary_metadata(self, key: str) -> bytes | None:
        for name, value in self._metadata:
            if name == key:
                return value if isinstance(value, bytes) else None
        return None

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        seconds: float | None = self.context.time_remaining()
        return seconds

    def answer(self, message: bytes) -> None:
        if not self.ended:
            self.ended = True
            self.end.set_result(message)

    def fail(self, error: GnomonError) -> None:
        if not self.ended:
            self.ended = True
            self.end.set_exception(error)

    async def send_metadata(self) -> None:
        """Sends what the handler has set so far; initial metadata once."""
        if self.initial and not self._sent_initial:
            self._sent_initial = True
            await self.context.send_initial_metadata(tuple(self.initial))
        if self.trailing:
            self.context.set_trailing_metadata(tuple(self.trailing))


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns credentials that look at the files at every handshake."""
    reloaded = Reloaded(tls, _configuration)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        try:
            return reloaded.value if reloaded.renew() else None
        except InvalidRequest as error:
            log.error("%s; the last one stays in use", error)
            return None

    # The types forget that None means "as before".
    renewed: Any = fetch
    return grpc.dynamic_ssl_server_credentials(reloaded.value, renewed, bool(tls.client_ca))


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    # grpcio would take what is no PEM and fail at each handshake; this is the check of the other transport.
    context(tls)
    pairs = [(tls.key.read_bytes(), tls.certificate.read_bytes())]
    return grpc.ssl_server_certificate_configuration(pairs, tls.client_ca.read_bytes() if tls.client_ca else None)
