"""gRPC over HTTP/2 by ngh2: a protocol core without I/O, and a loop around it that answers what arrives together."""

from gnomon_server.serving.transport.http2.server import Http2Transport

__all__ = ["Http2Transport"]
