"""What a server says when it refuses means the same to both engines, whatever it is called."""

from __future__ import annotations

import pytest

from htcjob import errors
from htcjob.outcome.endings import ending_of_error
from htcjob.storage.access import Access
from htcjob.storage.answers import AZURE, GOOGLE, S3, Answer, Meaning
from htcjob.storage.urls import open_store
from tests.support.servers.refusals import refusing_server

PLACES = {"s3": "s3://b", "gs": "gs://b", "az": "az://account/c"}
ROWS = {"s3": (S3,), "gs": (S3, GOOGLE), "az": (AZURE,)}
EXPECTED = (
    # scheme, status, code, class, exit status, a word that helps
    ("s3", 403, "RequestTimeTooSkewed", errors.TransientError, 75, "clock"),
    ("s3", 403, "RequestTimeSkewed", errors.TransientError, 75, "clock"),
    ("s3", 403, "RequestExpired", errors.UnauthenticatedError, 77, "expired"),
    ("s3", 400, "ExpiredToken", errors.UnauthenticatedError, 77, "expired"),
    ("s3", 400, "TokenRefreshRequired", errors.UnauthenticatedError, 77, "expired"),
    ("s3", 400, "InvalidToken", errors.UnauthenticatedError, 77, "refused"),
    ("s3", 403, "NotSignedUp", errors.DeniedError, 77, "account"),
    ("s3", 403, "AccountProblem", errors.DeniedError, 77, "account"),
    ("s3", 400, "KMS.DisabledException", errors.PermanentError, 74, "encrypts"),
    ("s3", 400, "KMS.NotFoundException", errors.PermanentError, 74, "encrypts"),
    ("s3", 400, "KMS.SomethingNewException", errors.PermanentError, 74, "encrypts"),
    ("s3", 400, "KMS.ThrottlingException", errors.TransientError, 75, "throttled"),
    ("s3", 403, "KMSAccessDenied", errors.DeniedError, 77, "denied"),
    ("s3", 403, "InvalidObjectState", errors.PermanentError, 74, "archive"),
    ("s3", 501, "NotImplemented", errors.PermanentError, 74, "support"),
    ("s3", 400, "Throttling", errors.TransientError, 75, "throttled"),
    ("s3", 509, "BandwidthLimitExceeded", errors.TransientError, 75, "throttled"),
    ("s3", 409, "TransactionInProgress", errors.TransientError, 75, "throttled"),
    ("s3", 409, "OperationAborted", errors.TransientError, 75, "in the way"),
    ("s3", 409, "ConditionalRequestConflict", errors.TransientError, 75, "in the way"),
    ("s3", 403, "QuotaExceeded", errors.UnwritableError, 74, "full"),
    ("s3", 507, "XMinioStorageFull", errors.UnwritableError, 74, "full"),
    ("s3", 400, "EntityTooLarge", errors.PermanentError, 74, "too large"),
    ("s3", 400, "BadDigest", errors.TransientError, 75, "not what was sent"),
    ("s3", 400, "AuthorizationHeaderMalformed", errors.PermanentError, 74, "another region"),
    ("s3", 301, "PermanentRedirect", errors.PermanentError, 74, "another region"),
    ("s3", 307, "TemporaryRedirect", errors.TransientError, 75, "failed"),
    ("s3", 425, "TooEarly", errors.TransientError, 75, "failed"),
    ("s3", 500, "AccessDenied", errors.TransientError, 75, "failed"),
    ("s3", 404, "NoSuchBucket", errors.AbsentError, 66, "no bucket b"),
    ("s3", 418, "SomethingNew", errors.PermanentError, 74, "refused"),
    ("gs", 403, "accountDisabled", errors.DeniedError, 77, "account"),
    ("gs", 403, "UserProjectAccountProblem", errors.DeniedError, 77, "account"),
    ("gs", 403, "rateLimitExceeded", errors.TransientError, 75, "throttled"),
    ("gs", 403, "userRateLimitExceeded", errors.TransientError, 75, "throttled"),
    ("gs", 403, "quotaExceeded", errors.UnwritableError, 74, "full"),
    ("gs", 400, "cloudKmsDisabledKey", errors.PermanentError, 74, "encrypts"),
    ("gs", 401, "authError", errors.UnauthenticatedError, 77, "refused"),
    ("az", 403, "AuthenticationFailed", errors.UnauthenticatedError, 77, "refused"),
    ("az", 403, "AccountIsDisabled", errors.DeniedError, 77, "account"),
    ("az", 409, "BlobArchived", errors.PermanentError, 74, "archive"),
    ("az", 409, "BlobBeingRehydrated", errors.PermanentError, 74, "archive"),
    ("az", 503, "ServerBusy", errors.TransientError, 75, "throttled"),
    ("az", 404, "ContainerNotFound", errors.AbsentError, 66, "container c in account account"),
)


@pytest.fixture(params=["fast", "sdk"])
def engine(request):
    return request.param


@pytest.fixture
def server():
    with refusing_server() as server:
        yield server


@pytest.fixture
def store_of(server, engine, monkeypatch):
    """Open the store of a scheme on that server."""
    endpoint = server.url + "/account"
    key = "a2V5"
    text = f"AccountName=account;AccountKey={key};BlobEndpoint={endpoint}"
    environ = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL_S3": server.url,
        "AWS_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": server.url,
        "AZURE_STORAGE_CONNECTION_STRING": text,
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def open_it(scheme: str):
        return open_store(PLACES[scheme], Access(engine=engine, environ=environ))

    return open_it


def verbs_of(store, tmp_path):
    return {
        "get": lambda: store.get("k", str(tmp_path / "out")),
        "head": lambda: store.head("k"),
        "put_bytes": lambda: store.put_bytes(b"x", "k"),
        "list": lambda: list(store.list("")),
    }


def failure_of(verb) -> errors.StorageError:
    with pytest.raises(errors.StorageError) as raised:
        verb()
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("scheme", PLACES)
def test_every_row(server, store_of, scheme, tmp_path):
    """Every code of the table means what the table says, in every verb of either engine, and is shown."""
    store = store_of(scheme)
    wrong = []
    rows = [word for table in ROWS[scheme] for words in table.values() for word in words.split()]
    for status, code in ((int(word[:3]), word[4:]) for word in rows):
        server.say(status, code)
        for operation, verb in verbs_of(store, tmp_path).items():
            error = failure_of(verb)
            # The answer to a HEAD has no body; where the status is not clear, a GET is asked for the code.
            answer = Answer(scheme, status, code)
            if operation == "head" and code not in str(error):
                answer = Answer(scheme, status)
                assert not answer.is_mute
            expected = answer.error(operation, "", "")
            is_alike = type(error) is type(expected)
            if isinstance(error, errors.TransientError) and isinstance(expected, errors.TransientError):
                is_alike = error.is_throttled is expected.is_throttled
            if not is_alike or (operation != "head" and code not in str(error)):
                wrong.append((operation, status, code, type(error).__name__, str(error)))
    assert wrong == []


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_what_is_expected(server, store_of, row, tmp_path):
    """The codes that people meet end with the class, the exit status and the word that one would expect."""
    scheme, status, code, kind, exit_status, word = row
    server.say(status, code)
    for operation, verb in verbs_of(store_of(scheme), tmp_path).items():
        error = failure_of(verb)
        assert type(error) is kind, operation
        assert ending_of_error(error).exit_status == exit_status
        assert code in str(error) or (operation == "head" and status in (404, 500, 503, 509))
        assert word in str(error) or operation == "head"


@pytest.mark.parametrize("scheme", PLACES)
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, b"<html><body>Bad <b>Gateway</b></body></html>", errors.TransientError),
        (503, b"", errors.TransientError),
        (500, b"\xff\xfe{", errors.TransientError),
        (403, b"", errors.DeniedError),
        (403, b"<html>Blocked by the firewall", errors.DeniedError),
        (404, b"<html>404", errors.AbsentError),
        (400, b"", errors.PermanentError),
        (405, b"", errors.PermanentError),
        (413, b"<html>too large", errors.PermanentError),
        (429, b"slow down", errors.TransientError),
        (599, b"", errors.TransientError),
    ],
)
def test_pages_of_others(server, store_of, scheme, status, body, kind, tmp_path):
    """A page of a proxy, a body that is none and an empty one are judged by their status."""
    server.say(status, body=body)
    for operation, verb in verbs_of(store_of(scheme), tmp_path).items():
        assert type(failure_of(verb)) is kind, operation


def test_region_is_named(server, store_of, tmp_path):
    """Where the bucket is, when the server says it."""
    store = store_of("s3")
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-west-7</Region></Error>"
    server.say(400, body=body)
    for verb in verbs_of(store, tmp_path).values():
        assert "bucket b is in the region eu-west-7: set AWS_REGION" in str(failure_of(verb))
    server.say(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-7"})
    for verb in verbs_of(store_of("s3"), tmp_path).values():
        assert "bucket b is in the region eu-west-7: set AWS_REGION" in str(failure_of(verb))


def test_if_absent_says_what_happened(server, store_of):
    """A precondition that failed is no failure of a write that asked for it, in any cloud's words."""
    for scheme, status, code in (
        ("s3", 412, "PreconditionFailed"),
        ("gs", 412, "conditionNotMet"),
        ("az", 409, "BlobAlreadyExists"),
    ):
        server.say(status, code)
        assert store_of(scheme).put_bytes(b"x", "k", if_absent=True) is False
    server.say(409, "ConditionalRequestConflict")
    with pytest.raises(errors.TransientError):
        store_of("s3").put_bytes(b"x", "k", if_absent=True)


def test_table_is_whole():
    """No code stands in a table twice, and every one has a status behind which it comes."""
    for table in (S3, GOOGLE, AZURE):
        words = [word for words in table.values() for word in words.split()]
        codes = [word[4:] for word in words]
        assert len(codes) == len(set(codes))
        assert all(word[:3].isdecimal() and word[3] == ":" for word in words)
        assert all(isinstance(meaning, Meaning) for meaning in table)


@pytest.mark.parametrize(
    ("status", "code", "exit_status", "word"),
    [
        (403, "RequestExpired", 77, "RequestExpired"),
        (400, "KMS.DisabledException", 74, "KMS.DisabledException"),
        (501, "NotImplemented", 74, "NotImplemented"),
        (403, "InvalidObjectState", 74, "archive"),
        (404, "NoSuchBucket", 66, "no bucket b"),
    ],
)
def test_command_line(server, htcjob, engine, tmp_path, status, code, exit_status, word):
    """`htcjob storage` ends with one line and the status of the table: cat, put and ls."""
    server.say(status, code)
    (tmp_path / "x").write_bytes(b"x")
    variables = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL_S3": server.url,
        "HTCJOB_STORAGE_ENGINE": engine,
    }
    for arguments in (("cat", "s3://b/k"), ("put", str(tmp_path / "x"), "s3://b/"), ("ls", "s3://b/")):
        done = htcjob("storage", *arguments, **variables)
        assert done.returncode == exit_status, done.stderr
        assert word in done.stderr or (arguments[0], status) == ("cat", 404)  # it begins with a HEAD
        assert done.stderr.count("\n") == 1
