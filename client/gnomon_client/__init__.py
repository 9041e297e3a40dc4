"""The client of gnomon and of any other server of the Open Inference Protocol, version 2.

It needs grpcio, protobuf and numpy only; pandas and OpenTelemetry are used where the caller has them. A process cannot
import it beside tritonclient, kserve or mlserver: each registers the same protobuf package.
"""

from gnomon_client.async_client import AsyncClient
from gnomon_client.client import Client
from gnomon_client.configuration import DynamicBatching, ModelConfig
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
from gnomon_client.repository import RepositoryEntry
from gnomon_client.result import InferResult
from gnomon_client.retries import Retries
from gnomon_client.statistics import BatchStatistics, ModelStatistics, Spent
from gnomon_client.tls import Tls

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "BatchStatistics",
    "Cancelled",
    "Client",
    "ClientError",
    "Control",
    "DataLoss",
    "DeadlineExceeded",
    "DynamicBatching",
    "FailedPrecondition",
    "InferResult",
    "InputError",
    "Internal",
    "InvalidArgument",
    "ModelConfig",
    "ModelMetadata",
    "ModelStatistics",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "RepositoryEntry",
    "ResourceExhausted",
    "Retries",
    "ServerMetadata",
    "Spent",
    "TensorMetadata",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]
