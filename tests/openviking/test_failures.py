"""What an exception says of a model's endpoint: the real ones of the libraries, as a real endpoint makes them."""

import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import openai
import pytest

from hotreload.openviking.failures import Failure, failure_of, is_unknown, refusal_of


def of_status(status: int, code: str = "stub", **headers: str) -> openai.APIStatusError:
    """Return what the library raises for an answer."""
    body = {"error": {"message": "no", "type": code, "code": code}}
    answers = httpx.MockTransport(lambda _request: httpx.Response(status, headers=headers, json=body))
    with (
        openai.OpenAI(
            api_key="k", base_url="http://127.0.0.1", max_retries=0, http_client=httpx.Client(transport=answers)
        ) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.models.list()
    return raised.value


def caused(error: BaseException, by: BaseException) -> BaseException:
    """Return an exception with a cause."""
    error.__cause__ = by
    return error


@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 429, 500, 502, 503, 504, 529])
def test_a_status_of_the_endpoint(status: int) -> None:
    assert failure_of(of_status(status)) == Failure(str(status))
    assert failure_of(caused(RuntimeError("wrapped"), of_status(status))) == Failure(str(status))


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_of_what_was_asked(status: int) -> None:
    assert failure_of(of_status(status)) is None
    assert str(status) in (refusal_of(of_status(status)) or "")


def test_a_content_filter_whatever_its_status() -> None:
    for status in (400, 403, 429):
        assert failure_of(of_status(status, "content_filter")) is None
        assert refusal_of(of_status(status, "content_policy_violation"))


def test_how_long_to_leave_it_alone() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    for stated, low, high in (("7", 7, 7), ("0", 0, 0), (soon, 25, 31), ("-3", 0, 0)):
        failure = failure_of(of_status(429, **{"Retry-After": stated}))
        assert failure is not None
        assert failure.retry_after_s is not None
        assert low <= failure.retry_after_s <= high
    assert failure_of(of_status(429, **{"Retry-After": "soon"})) == Failure("429", None)


REQUEST = httpx.Request("POST", "http://127.0.0.1")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (caused(httpx.ConnectError("x"), ConnectionRefusedError()), "connection refused"),
        (caused(openai.APIConnectionError(request=REQUEST), socket.gaierror(-2, "x")), "host name not resolved"),
        (openai.APITimeoutError(request=REQUEST), "timeout"),
        (httpx.ReadTimeout("x"), "timeout"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection failed"),
        (httpx.RemoteProtocolError("x"), "connection failed"),
        (caused(httpx.ConnectError("x"), ssl.SSLError("x")), "TLS failed"),
        (caused(RuntimeError("x"), OSError(113, "No route to host")), "host not reachable"),
    ],
)
def test_a_network_error(error: BaseException, cause: str) -> None:
    assert failure_of(error) == Failure(cause)
    assert refusal_of(error) is None


@pytest.mark.parametrize("error", [ValueError("503"), RuntimeError("closed"), FileNotFoundError(2, "x"), KeyError("a")])
def test_what_says_nothing_of_an_endpoint(error: Exception) -> None:
    assert failure_of(error) is None
    assert refusal_of(error) is None


def test_several_credentials_fail_together_or_one_refuses() -> None:
    class AllFailed(Exception):
        def __init__(self, *errors: Exception) -> None:
            self.errors = [(str(n), None, error, n) for n, error in enumerate(errors)]

    assert failure_of(AllFailed(of_status(401), of_status(503))) == Failure("503")
    assert failure_of(AllFailed(of_status(401), of_status(400))) is None


def test_openvikings_own_kinds() -> None:
    model_error = pytest.importorskip("openviking.models.model_error")
    kinds, error = model_error.ModelErrorKind, model_error.ModelError
    assert failure_of(error(kinds.INPUT_TOO_LARGE, "x", status_code=500)) is None
    assert failure_of(error(kinds.QUOTA_EXHAUSTED, "x")) == Failure("quota exhausted")
    assert failure_of(error(kinds.MODEL_NOT_FOUND, "x", status_code=400)) == Failure("400")
    assert refusal_of(error(kinds.CONTENT_SAFETY, "x", status_code=400)) == "400 content safety"
    assert is_unknown(error(kinds.UNKNOWN, "x"))
    assert not is_unknown(error(kinds.UNKNOWN, "x", status_code=503))
