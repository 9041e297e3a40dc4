"""A version as a config.pbtxt: what it says of batches, tensors and scheduling is what the server does."""

from __future__ import annotations

import msgspec
import pytest
from server.serving.fakes import LINE, NO_SESSION, Doubler

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import DATATYPES
from gnomon_server.models.servable import Servable
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.serving.configuration import config
from gnomon_server.settings import MODEL_DEFAULTS, ModelSettings, SessionSettings
from gnomon_server.wire.plans import VersionRef


def made(
    signature: Signature = LINE, coalescable: bool = True, settings: ModelSettings = MODEL_DEFAULTS
) -> pb.ModelConfig:
    servable = Servable(VersionRef("m", 3, "/m/3"), NO_SESSION, signature, (), "", coalescable, settings)
    return config(servable, {3: servable, 1: Doubler(1)}, 2)


def test_a_batched_model_leaves_the_batch_out_of_its_dims() -> None:
    found = made()
    assert (found.name, found.platform, found.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert found.max_batch_size == MODEL_DEFAULTS.max_batch
    assert [(i.name, i.data_type, list(i.dims)) for i in found.input] == [("x", pb.TYPE_FP32, [3])]
    assert [(o.name, o.data_type, list(o.dims)) for o in found.output] == [("y", pb.TYPE_FP32, [3])]
    assert list(found.version_policy.specific.versions) == [1, 3]
    assert [(group.count, group.kind) for group in found.instance_group] == [(2, pb.ModelInstanceGroup.KIND_CPU)]


def test_a_model_without_a_batch_dimension_shows_complete_shapes() -> None:
    fixed = Signature((TensorSpec("x", "INT64", (2, -1)),), (TensorSpec("y", "BYTES", (-1,)),))
    found = made(fixed, coalescable=False)
    assert found.max_batch_size == 0
    assert list(found.input[0].dims) == [2, -1]
    assert (found.output[0].data_type, list(found.output[0].dims)) == (pb.TYPE_STRING, [-1])
    assert not found.HasField("dynamic_batching")


def test_an_input_that_may_be_left_out_is_optional_and_has_its_complete_shape() -> None:
    by = TensorSpec("by", "FP32", (-1, 3), optional=True)
    found = made(Signature((*LINE.inputs, by), LINE.outputs))
    assert [(i.name, list(i.dims), i.optional) for i in found.input] == [("x", [3], False), ("by", [-1, 3], True)]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_a_name_there(datatype: str) -> None:
    tensor = TensorSpec("x", datatype, (1,))
    assert made(Signature((tensor,), (tensor,)), coalescable=False).input[0].data_type != pb.TYPE_INVALID


def test_dynamic_batching_says_what_the_settings_say() -> None:
    settings = ModelSettings(max_batch=8, max_queue_delay=0.0025, max_queue=17)
    found = made(settings=settings)
    assert found.max_batch_size == 8
    assert found.dynamic_batching.max_queue_delay_microseconds == 2500
    assert found.dynamic_batching.default_queue_policy.max_queue_size == 17
    assert not found.dynamic_batching.preserve_ordering


def test_a_model_whose_rows_are_not_independent_takes_batches_and_is_not_batched() -> None:
    found = made(coalescable=False)
    assert found.max_batch_size == MODEL_DEFAULTS.max_batch
    assert found.WhichOneof("scheduling_choice") is None


def test_a_model_on_another_provider_is_not_said_to_run_on_the_processor() -> None:
    session = SessionSettings(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    found = made(settings=msgspec.structs.replace(MODEL_DEFAULTS, session=session))
    assert found.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
