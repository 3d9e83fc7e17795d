"""The API's answers become URLs and credentials, or are refused without showing what is in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.errors import PermanentError, StorageError, TransientError
from htcjob.htc_api.client import ApiAnswer
from htcjob.htc_api.storage_answers import grant_of_regions, grant_of_token
from htcjob.logs.redact import Secret, redact

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
AWS = {
    "AWS_ACCESS_KEY_ID": "planted-id-0123456789",
    "AWS_SECRET_ACCESS_KEY": "planted-key-0123456789",
    "AWS_SESSION_TOKEN": "planted-session-0123456789",
}
SAS = {"AZURE_STORAGE_SAS_TOKEN": "sv=2024-01-01&sig=planted%2Fsignature"}
GCP = {"GCP_ACCESS_TOKEN": "ya29.planted-0123456789"}
ACCOUNT = json.dumps({"type": "service_account", "private_key": "planted-private-key-0123456789"})


def token(credentials=AWS, clock_ahead_s=0.0, **fields):
    body = {
        "taskId": "t",
        "region": "AWS_EU_WEST_1",
        "storagePath": "s3://bucket/tasks/t/",
        "credentials": credentials,
        **fields,
    }
    body = {name: value for name, value in body.items() if value is not None}
    return grant_of_token(ApiAnswer(body, "https://api/route", clock_ahead_s), now=NOW)


def regional(stores, region=None, **fields):
    body = {"regionalStores": stores, **fields}
    return grant_of_regions(ApiAnswer(body, "https://api/route", 0.0), region, now=NOW)


def store(region, **fields):
    bucket = region.lower().replace("_", "-")
    return {
        "region": region,
        "provider": "AWS",
        "projectPath": f"s3://{bucket}/p",
        "taskPath": f"s3://{bucket}/p/t",
        "credentials": AWS,
        **fields,
    }


class TestToken:
    def test_of_a_task(self):
        """As the contract has it; a slash is added where it lacks."""
        grant = token(provider="AWS", storagePath="s3://b/t", projectSharedStoragePath="s3://b/p/shared")
        assert grant.task_url == "s3://b/t/"
        assert grant.project_url == "s3://b/p/shared/"
        assert grant.region == "eu-west-1"
        assert grant.endpoint is None
        assert grant.credentials.provider == "AWS"
        assert {name: s.reveal() for name, s in grant.credentials.values.items()} == AWS

    def test_of_a_project(self):
        """Without a task, `storagePath` is the project's, unless the shared one is named."""
        assert token(taskId=None).project_url == "s3://bucket/tasks/t/"
        assert token(taskId=None).task_url is None
        assert token(taskId=None, projectSharedStoragePath="s3://b/s/").project_url == "s3://b/s/"

    def test_all_are_secrets(self):
        """No text of the grant shows a value, and redact knows each of them from now on."""
        assert "planted" not in f"{token()!r}"
        assert "planted" not in redact(" ".join(AWS.values()))

    def test_an_endpoint(self):
        """A compatible server comes with the credentials, and is no secret."""
        grant = token({**AWS, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000"})
        assert grant.endpoint == "http://127.0.0.1:9000"
        assert redact("http://127.0.0.1:9000") == "http://127.0.0.1:9000"
        assert set(grant.credentials.values) == set(AWS)

    @pytest.mark.parametrize(
        "url", ["127.0.0.1", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h h"]
    )
    def test_a_bad_endpoint(self, url):
        """It is refused."""
        with pytest.raises(PermanentError, match="endpoint"):
            token({**AWS, "AWS_ENDPOINT_URL_S3": url})

    @pytest.mark.parametrize(
        ("name", "credentials", "expected"),
        [
            ("AWS_US_GOV_WEST_1", {}, "us-gov-west-1"),
            ("AWS_AP_SOUTHEAST_2", {}, "ap-southeast-2"),
            ("COREWEAVE_US_EAST_4", {}, None),
            ("COREWEAVE_US_EAST_4", {"AWS_REGION": "us-east-04a"}, "us-east-04a"),
            (None, {}, None),
        ],
    )
    def test_regions(self, name, credentials, expected):
        """AWS's own name is made from the API's; of others it is not guessed."""
        assert token({**AWS, **credentials}, region=name).region == expected


class TestExpiration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2027-01-15T08:00:05Z", 5),
            ("2027-01-15T08:00:05.25Z", 5.25),
            ("2027-01-15T08:00:05.123456789Z", 5.123456789),
            ("2027-01-15T10:00:05+02:00", 5),
        ],
    )
    def test_instants(self, text, seconds):
        """With any fraction and zone."""
        assert token(expiration=text).credentials.expires_at == pytest.approx(NOW + seconds)

    @pytest.mark.parametrize("text", [None, "", "soon", 5, "2027-01-15T08:00:05", "2027-13-45T99:00:00Z"])
    def test_not_known(self, text):
        """What is no instant is no end."""
        assert token(expiration=text).credentials.expires_at is None

    def test_clock_skew(self):
        """The end is by our clock: where the API's is an hour ahead, so are its ends."""
        grant = token(expiration="2027-01-15T10:00:00Z", clock_ahead_s=3600.0)
        assert grant.credentials.expires_at == NOW + 3600
        assert (
            token(expiration="2027-01-15T08:30:00Z", clock_ahead_s=-3600.0).credentials.expires_at
            == NOW + 5400
        )
        assert token(expiration="2027-01-15T08:00:05Z", clock_ahead_s=-1.0).credentials.expires_at == NOW + 5

    def test_expired_on_arrival(self):
        """That is no use, and may pass."""
        with pytest.raises(TransientError, match="expired already"):
            token(expiration="2027-01-15T08:00:00Z")
        assert token(expiration="2027-01-15T08:00:00Z", clock_ahead_s=-60.0)


class TestProviders:
    @pytest.mark.parametrize(
        ("path", "url", "endpoint"),
        [
            ("az://acc/cont/pre", "az://acc/cont/pre/", None),
            ("https://acc.blob.core.windows.net/cont/pre/", "az://acc/cont/pre/", None),
            ("https://acc.dfs.core.windows.net/cont", "az://acc/cont/", None),
            (
                "https://acc.blob.core.chinacloudapi.cn/cont/p",
                "az://acc/cont/p/",
                "https://acc.blob.core.chinacloudapi.cn",
            ),
            ("http://127.0.0.1:10000/acc/cont/pre", "az://acc/cont/pre/", "http://127.0.0.1:10000/acc"),
            ("abfss://cont@acc.dfs.core.windows.net/pre", "az://acc/cont/pre/", None),
            ("wasbs://cont@acc.blob.core.windows.net/", "az://acc/cont/", None),
        ],
    )
    def test_azure_paths(self, path, url, endpoint):
        """Each form in which Azure's own tools write a place."""
        grant = token(SAS, storagePath=path, provider="AZURE")
        assert (grant.task_url, grant.endpoint) == (url, endpoint)
        assert grant.credentials.provider == "AZURE"

    def test_azure_container_alone(self):
        """With the account among the credentials, the path may lack it."""
        credentials = {**SAS, "AZURE_STORAGE_ACCOUNT_NAME": "acc"}
        assert token(credentials, storagePath="az://cont/pre").task_url == "az://acc/cont/pre/"
        assert token(credentials, storagePath="az://acc/cont/pre").task_url == "az://acc/cont/pre/"

    @pytest.mark.parametrize(
        "credentials",
        [
            SAS,
            {"AZURE_STORAGE_SAS_TOKEN": "?sv=2024-01-01&sig=planted%2Fsignature"},
            {"sasToken": "sv=2024-01-01&sig=planted%2Fsignature"},
            {"SAS_URL": "https://acc.blob.core.windows.net/c?sv=2024-01-01&sig=planted%2Fsignature"},
        ],
    )
    def test_azure_sas(self, credentials):
        """Whatever its name, without a `?`."""
        grant = token(credentials, storagePath="az://acc/cont/")
        values = grant.credentials.values
        assert values == {"AZURE_STORAGE_SAS_TOKEN": Secret("sv=2024-01-01&sig=planted%2Fsignature")}

    @pytest.mark.parametrize(
        ("credentials", "name"),
        [
            (GCP, "GCP_ACCESS_TOKEN"),
            ({"access_token": "ya29.planted-0123456789"}, "GCP_ACCESS_TOKEN"),
            ({"accessToken": "ya29.planted-0123456789"}, "GCP_ACCESS_TOKEN"),
            ({"GCP_APPLICATION_CREDENTIALS": ACCOUNT}, "GCP_APPLICATION_CREDENTIALS"),
            ({"GOOGLE_TOKEN": ACCOUNT}, "GCP_APPLICATION_CREDENTIALS"),
        ],
    )
    def test_gcp(self, credentials, name):
        """An access token or an account, told apart by what is in it."""
        grant = token(credentials, storagePath="gs://bucket/p", provider="GCP", region="GCP_US_CENTRAL_1")
        assert grant.credentials.provider == "GCP"
        assert grant.credentials.values == {name: Secret(next(iter(credentials.values())))}
        assert grant.region is None

    def test_a_private_key_is_hidden_by_itself(self):
        """Not only as a part of the whole text."""
        token({"GCP_APPLICATION_CREDENTIALS": ACCOUNT}, storagePath="gs://bucket/p")
        assert "planted" not in redact("x planted-private-key-0123456789 y")
        assert redact("service_account") == "service_account"

    def test_other_providers_speak_s3(self):
        """COREWEAVE, RC and NGC are taken by their path."""
        assert token(provider="COREWEAVE").credentials.provider == "AWS"


BAD = [
    {"credentials": None},
    {"credentials": "planted"},
    {"credentials": {}},
    {"credentials": {**AWS, "AWS_SESSION_TOKEN": ["planted"]}},
    {"credentials": {"AWS_ACCESS_KEY_ID": "planted"}},
    {"credentials": SAS},
    {"credentials": AWS, "storagePath": "gs://bucket/p"},
    {"credentials": AWS, "storagePath": "az://acc/cont"},
    {"credentials": SAS, "storagePath": "az://acc"},
    {"credentials": {"token": "{planted"}, "storagePath": "gs://bucket/p"},
    {"provider": "GCP"},
    {"provider": "AZURE"},
    {"storagePath": None},
    {"storagePath": 7},
    {"storagePath": "bucket/planted"},
    {"storagePath": "s3://"},
    {"storagePath": "s3:///planted"},
    {"storagePath": "s3://bucket/p?sig=planted"},
    {"storagePath": "s3://user:planted@bucket/p"},
    {"storagePath": "https://user:planted@host/acc/cont"},
    {"storagePath": "s3://bucket/\n"},
    {"storagePath": "file:///etc"},
    {"storagePath": "memory:x"},
    {"projectSharedStoragePath": "gs://bucket/p"},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_other_forms_are_refused(fields):
    """With one line that names the route and what is wrong, and shows nothing that may be secret."""
    with pytest.raises(PermanentError, match="https://api/route: the answer cannot be used") as caught:
        token(**fields)
    assert "planted" not in str(caught.value)
    assert str(caught.value).isprintable()


class TestRegional:
    def test_one_credential_for_both(self):
        """Project and task storage come together."""
        grant = regional([store("AWS_EU_WEST_1", expiration="2027-01-15T08:00:05Z")])
        assert grant.project_url == "s3://aws-eu-west-1/p/"
        assert grant.task_url == "s3://aws-eu-west-1/p/t/"
        assert grant.credentials.expires_at == NOW + 5

    @pytest.mark.parametrize("region", ["AWS_US_EAST_2", "us-east-2", "aws_us_east_2"])
    def test_the_jobs_region_first(self, region):
        """By the API's name or by AWS's."""
        stores = [store("AWS_EU_WEST_1"), store("AWS_US_EAST_2")]
        grant = regional(stores, region, rescaleRegion="AWS_EU_WEST_1")
        assert (grant.region, grant.task_url) == ("us-east-2", "s3://aws-us-east-2/p/t/")

    @pytest.mark.parametrize("region", [None, "AWS_AP_SOUTH_1"])
    @pytest.mark.parametrize("name", ["rescaleRegion", "defaultRegion"])
    def test_else_the_default(self, region, name):
        """Where the job's has no storage."""
        grant = regional([store("AWS_EU_WEST_1"), store("AWS_US_EAST_2")], region, **{name: "AWS_US_EAST_2"})
        assert grant.region == "us-east-2"

    def test_else_the_only_one(self):
        """There is no choice to make."""
        assert regional([store("AWS_EU_WEST_1")], "AWS_AP_SOUTH_1").region == "eu-west-1"

    @pytest.mark.parametrize("stores", [[], [store("AWS_EU_WEST_1"), store("AWS_US_EAST_2")]])
    def test_no_choice(self, stores):
        """With several and no default, or none, the message names what there is."""
        with pytest.raises(PermanentError, match=r"AWS_EU_WEST_1, AWS_US_EAST_2|no region"):
            regional(stores, "AWS_AP_SOUTH_1")

    @pytest.mark.parametrize("stores", [None, "planted", 7, ["planted"], {"a": 1}])
    def test_other_forms_are_refused(self, stores):
        """As for a token."""
        with pytest.raises(PermanentError, match="regionalStores") as caught:
            regional(stores)
        assert "planted" not in str(caught.value)

    def test_tokens_have_another_name_for_the_list(self):
        """What `/tokens` answers is read as well."""
        answer = ApiAnswer({"regionStores": [store("AWS_EU_WEST_1")]}, "u", 0.0)
        assert grant_of_regions(answer, None, now=NOW).task_url


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
PATHS = st.sampled_from(
    ["s3://b/p", "gs://b", "az://a/c/", "https://a.blob.core.windows.net/c", "s3://", "x"]
)
CREDENTIALS = st.dictionaries(
    st.sampled_from([*AWS, *SAS, *GCP, "AWS_REGION", "AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT"]),
    ANY | st.sampled_from([*AWS.values(), *SAS.values(), *GCP.values(), ACCOUNT, "a\nb", "\ud800", "é"]),
)
STORE = st.fixed_dictionaries(
    {},
    optional={
        "region": ANY | st.sampled_from(["AWS_EU_WEST_1", "AWS_\ud800\n"]),
        "provider": ANY | st.sampled_from(["AWS", "GCP", "AZURE"]),
        "projectPath": ANY | PATHS,
        "taskPath": ANY | PATHS,
        "storagePath": ANY | PATHS,
        "projectSharedStoragePath": ANY | PATHS,
        "credentials": ANY | CREDENTIALS | st.just(AWS),
        "expiration": ANY | st.sampled_from(["2027-01-15T09:00:00Z", "0000-00-00T00:00:00Z"]),
        "taskId": ANY,
    },
)
BODY = st.one_of(
    STORE,
    st.fixed_dictionaries(
        {"regionalStores": ANY | st.lists(STORE | ANY, max_size=3)},
        optional={"rescaleRegion": ANY, "defaultRegion": ANY | st.just("AWS_EU_WEST_1")},
    ),
)


@settings(max_examples=300)
@given(body=BODY)
def test_whatever_the_answer_holds_it_is_a_grant_or_one_line(body):
    """No odd member is a bug of ours, and what is granted can be put into a request."""
    answer = ApiAnswer(json.loads(json.dumps(body)), "https://api/route", 0.0)
    for read in (
        lambda: grant_of_token(answer, now=NOW),
        lambda: grant_of_regions(answer, "AWS_EU_WEST_1", now=NOW),
    ):
        try:
            grant = read()
        except StorageError as error:
            assert str(error).isprintable()  # noqa: PT017 - one of two outcomes
            continue
        for name, secret in grant.credentials.values.items():
            assert secret.reveal().isprintable() or name == "GCP_APPLICATION_CREDENTIALS"
            secret.reveal().encode("ascii" if name != "GCP_APPLICATION_CREDENTIALS" else "utf-8")
        for text in (grant.project_url, grant.task_url, grant.region, grant.endpoint):
            assert text is None or text.isprintable()
        for name in AWS.keys() & grant.credentials.values.keys():
            assert grant.credentials.values[name].reveal()


@pytest.mark.parametrize("text", ["line\nbreak", "é", "\ud800", "\0", "{\n"])
@pytest.mark.parametrize("name", AWS)
def test_credentials_that_no_request_could_hold_are_refused(name, text):
    """The client's own complaint would be a bug of ours, and show them."""
    with pytest.raises(PermanentError, match="no plain text") as caught:
        token({**AWS, name: f"planted-0123{text}"})
    assert "planted" not in str(caught.value)
