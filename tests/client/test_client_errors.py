"""Every status becomes its own exception."""

from __future__ import annotations

import grpc
import pytest
from client.fake_server import FakeServer

from gnomon_client import Client, ClientError, InputError, InvalidArgument, Retries
from gnomon_client.connection import in_own_words
from gnomon_client.errors import BY_STATUS, Unknown, error_of

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def test_every_status_but_ok_has_its_own_class() -> None:
    assert set(BY_STATUS) == {code.name for code in FAILURES}
    assert len(set(BY_STATUS.values())) == len(FAILURES)
    assert all(BY_STATUS[name].status == name for name in BY_STATUS)


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_a_status_from_the_server_is_raised_as_its_class_with_its_details(code: grpc.StatusCode) -> None:
    with FakeServer([code]) as server, Client(server.address, retries=Retries(0)) as client:
        with pytest.raises(ClientError) as caught:
            client.live()
        assert type(caught.value) is BY_STATUS[code.name]
        assert caught.value.status == code.name
        assert caught.value.details == f"scripted {code.name}"
        assert str(caught.value) == f"{code.name}: scripted {code.name}"


def test_a_status_that_grpc_does_not_have_is_unknown() -> None:
    assert type(error_of("TEAPOT", "short and stout")) is Unknown


def test_an_input_error_is_an_invalid_argument_and_a_value_error() -> None:
    error = InputError("input 'x': expected FP32, received text")
    assert isinstance(error, InvalidArgument)
    assert isinstance(error, ValueError)
    assert error.status == "INVALID_ARGUMENT"


def test_a_server_that_is_not_there_is_named() -> None:
    with Client("127.0.0.1:1", retries=Retries(0)) as client, pytest.raises(ClientError) as caught:
        client.live()
    assert caught.value.status == "UNAVAILABLE"
    assert caught.value.details.startswith("127.0.0.1:1: expected a server, received no connection")


@pytest.mark.parametrize("details", ["errors resolving nowhere:1: not found", "DNS resolution failed for nowhere:1"])
def test_a_name_that_does_not_resolve_is_told_as_a_server_that_is_not_there(details: str) -> None:
    # Without a look-up: a machine without a name server would wait for one.
    told = in_own_words(grpc.StatusCode.UNAVAILABLE, details, "nowhere:1")
    assert told == f"nowhere:1: expected a server, received no connection ({details})"


def test_the_servers_own_words_stay_as_they_are() -> None:
    details = "model 'churn': not ready: LOADING"
    assert in_own_words(grpc.StatusCode.UNAVAILABLE, details, "nowhere:1") == details
