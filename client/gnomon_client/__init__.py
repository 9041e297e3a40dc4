"""The client of gnomon and of any other server of the Open Inference Protocol, version 2.

It needs grpcio, protobuf and numpy only; pandas and OpenTelemetry are used where the caller has them. A process cannot
import it beside tritonclient, kserve or mlserver: each registers the same protobuf package.
"""

from gnomon_client.async_client import AsyncClient
from gnomon_client.client import Client
from gnomon_client.control import Control
from gnomon_client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    ClientError,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InputError,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from gnomon_client.metadata import ModelMetadata, ServerMetadata, TensorMetadata
from gnomon_client.result import InferResult
from gnomon_client.retries import Retries
from gnomon_client.tls import Tls

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Client",
    "ClientError",
    "Control",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InferResult",
    "InputError",
    "Internal",
    "InvalidArgument",
    "ModelMetadata",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Retries",
    "ServerMetadata",
    "TensorMetadata",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]
