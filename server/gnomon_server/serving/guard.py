"""The guard around handlers: what they did not foresee becomes INTERNAL with a trace, and its detail a log entry."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from gnomon_server.errors import GnomonError, Internal
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.transport import Call, Methods, Stream, Unary

log = logging.getLogger(__name__)

Handle = Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]


class Guard:
    """Guards the methods of one frontend."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def methods(self, methods: Methods) -> Methods:
        """Returns the methods, guarded."""
        return {
            name: Unary(self._unary(method.handle))
            if isinstance(method, Unary)
            else Stream(self._stream(method.handle))
            for name, method in methods.items()
        }

    def _unary(self, handle: Callable[[Call], None]) -> Callable[[Call], None]:
        def guarded(call: Call) -> None:
            try:
                handle(call)
            except GnomonError:
                raise
            except Exception as error:
                raise self._internal(call, error) from error

        return guarded

    def _stream(self, handle: Handle) -> Handle:
        async def guarded(call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            try:
                async with aclosing(handle(call, messages)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        yield answer
            except GnomonError:
                raise
            except Exception as error:
                raise self._internal(call, error) from error

        return guarded

    def _internal(self, call: Call, error: Exception) -> GnomonError:
        trace = self._observation.trace(call).trace_id.hex()
        log.error("%s failed (trace %s)", call.method, trace, exc_info=error)
        return Internal(f"internal error; trace {trace}")
