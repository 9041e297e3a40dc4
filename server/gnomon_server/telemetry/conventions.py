"""Every name that gnomon's telemetry uses, so that a renamed convention is one changed line.

RPC names: OpenTelemetry semantic conventions 1.44.0, docs/rpc/rpc-spans.md, rpc-metrics.md and grpc.md. The release
after it renames `rpc.response.status_code` to `rpc.status_code`. Model serving has no conventions; `gnomon.` is ours.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
# Instrumentation scope, and the service's name where the environment gives none.
SCOPE: Final = "gnomon"

# Attributes of calls.
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"

# Attributes of model runs; versions are text, as in the inference protocol.
MODEL_NAME: Final = "gnomon.model.name"
MODEL_VERSION: Final = "gnomon.model.version"
ROLE: Final = "gnomon.role"
OUTCOME: Final = "gnomon.outcome"
OUTPUT: Final = "gnomon.output"
STATE: Final = "gnomon.state"
FEATURE: Final = "gnomon.feature"
SWITCH: Final = "gnomon.switch"
DIVERGENT: Final = "gnomon.divergent"
# Followed by the output's name.
DIVERGENCE_OF: Final = "gnomon.divergence."

# Spans; a server span is named after its method.
RUN_SPAN: Final = "gnomon.run"
SHADOW_SPAN: Final = "gnomon.shadow"

# Metrics.
CALL_DURATION: Final = "rpc.server.call.duration"
ACTIVE_REQUESTS: Final = "gnomon.server.active_requests"
INFERENCE_DURATION: Final = "gnomon.inference.duration"
INFERENCE_REQUESTS: Final = "gnomon.inference.requests"
INFERENCE_BATCH_SIZE: Final = "gnomon.inference.batch.size"
MIRROR_REQUESTS: Final = "gnomon.mirror.requests"
MIRROR_SEQUENCES_EVICTED: Final = "gnomon.mirror.sequences.evicted"
MIRROR_SHARE: Final = "gnomon.mirror.share"
SHADOW_DIVERGENCE: Final = "gnomon.shadow.divergence"
SHADOW_DISAGREEMENTS: Final = "gnomon.shadow.disagreements"
SHADOW_DURATION: Final = "gnomon.shadow.duration"
SHADOW_QUEUE_DEPTH: Final = "gnomon.shadow.queue.depth"
FEEDBACK_LABELS: Final = "gnomon.feedback.labels"
VERDICT: Final = "gnomon.verdict"
DRIFT_SCORE: Final = "gnomon.drift.score"
DRIFT_ALARM: Final = "gnomon.drift.alarm"
MODEL_STATE: Final = "gnomon.model.state"
ROUTE_SWITCHES: Final = "gnomon.route.switches"
CANARY_SHARE: Final = "gnomon.canary.share"
DELIVERY_STEP: Final = "gnomon.delivery.step"
DELIVERY_STATE: Final = "gnomon.delivery.state"

# Values.
GRPC: Final = "grpc"
# Stands for every method that is not registered, so that no client can create series.
OTHER_METHOD: Final = "_OTHER"
SHADOW: Final = "shadow"
# The ends of a mirrored request; selected is their sum.
OUTCOMES: Final = ("compared", "shadow_error", "primary_error", "timeout", "dropped", "not_comparable")
# What becomes of a label.
LABEL_OUTCOMES: Final = ("joined", "late", "duplicate", "refused", "unknown")
FAILED_OUTCOMES: Final = frozenset({"shadow_error", "timeout"})
VERDICTS: Final = ("promote", "reject", "keep watching")
PROMOTION: Final = "promotion"
ROLLBACK: Final = "rollback"
SWITCHES: Final = (PROMOTION, ROLLBACK)
RUNNING: Final = "running"
PAUSED: Final = "paused"
STUCK: Final = "stuck"
DELIVERY_STATES: Final = (RUNNING, PAUSED, STUCK)
VERSION_STATES: Final = ("loading", "ready", "failed", "unloaded")
# The statuses that are the server's failure; with any other the span's status stays unset (docs/rpc/grpc.md).
SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
