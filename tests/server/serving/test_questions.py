"""What a frontend asks of control, and how the call that waits ends."""

from __future__ import annotations

import pytest
from server.serving.fakes import HeldCall

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import BY_STATUS, Exhausted, GnomonError, Internal, NotReady
from gnomon_server.serving.questions import MOST, Questions
from gnomon_server.wire.questions import Answer, Counts, CountsWanted, Failure, Given, Question

SAID = pb.ServerLiveResponse(live=True)


class Asked:
    """Questions that were sent, and a call that waits for each."""

    def __init__(self) -> None:
        self.sent: list[Question] = []
        self.questions = Questions(self.sent.append)

    def ask(self) -> HeldCall:
        call = HeldCall()
        self.questions.ask(call, CountsWanted(), lambda _: SAID)
        return call

    def answer(self, index: int, given: Given) -> None:
        self.questions.answered(Answer(self.sent[index].number, given))


async def test_each_answer_ends_the_call_that_asked_for_it() -> None:
    asked = Asked()
    first, second = asked.ask(), asked.ask()
    asked.answer(1, Counts(()))
    assert (first.result, second.result) == (None, SAID.SerializeToString())
    asked.answer(0, Counts(()))
    assert first.result == SAID.SerializeToString()


@pytest.mark.parametrize("status", BY_STATUS)
async def test_an_error_of_control_reaches_the_client_with_its_status_and_text(status: str) -> None:
    asked = Asked()
    call = asked.ask()
    asked.answer(0, Failure(status, "what is wrong"))
    assert isinstance(call.result, GnomonError)
    assert (call.result.status, str(call.result)) == (status, "what is wrong")


async def test_a_status_that_nobody_knows_is_a_failure_inside() -> None:
    asked = Asked()
    call = asked.ask()
    asked.answer(0, Failure("DATA_LOSS", "what is wrong"))
    assert isinstance(call.result, Internal)


async def test_an_answer_that_cannot_be_read_ends_the_call_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Question] = []
    questions = Questions(sent.append)
    call = HeldCall()
    questions.ask(call, CountsWanted(), lambda given: given.nothing)
    questions.answered(Answer(sent[0].number, Counts(())))
    assert (type(call.result), str(call.result)) == (Internal, "internal error")
    assert "nothing" in caplog.text


async def test_clients_cannot_have_more_than_so_many_questions_open() -> None:
    asked = Asked()
    for _ in range(MOST):
        asked.ask()
    with pytest.raises(Exhausted, match=f"expected at most {MOST}"):
        asked.ask()
    asked.answer(0, Counts(()))
    asked.ask()


async def test_a_shutdown_ends_what_waits_and_takes_no_more() -> None:
    asked = Asked()
    call = asked.ask()
    asked.questions.close()
    assert (type(call.result), str(call.result)) == (NotReady, "server is shutting down")
    with pytest.raises(NotReady):
        asked.ask()
