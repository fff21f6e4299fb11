"""What upload APIs answer to GET /upload/, through whole runs: what is as good, and what stops a run."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tasks.core.api_answers import WRONG_SHAPES, what_is_wrong
from tasks.core.brake import LATER_PATIENCE_S, PATIENCE_S, WRONG_ANSWERS_IN_A_ROW
from tasks.core.errors import UsageError
from tests.conftest import Dicom, NearSide
from tests.far_side import TOKEN, Deviation, FarSide, Minted, Reply, Request, Step, always, s3_error, status
from tests.processes import await_that
from tests.test_documented import OPERATIONS

Compress = Callable[[bytes], bytes]
URL = "http://127.0.0.1:1/bucket/k?X-Amz-Signature=1"


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def twice(body: bytes) -> bytes:
    return gzip.compress(gzip.compress(body))


def as_it_is(body: bytes) -> bytes:
    return body


def answering(body: object, code: int = 200) -> Reply:
    return Reply(code, json.dumps(body).encode())


@pytest.fixture
def one_file(near_side: NearSide, dicom: Dicom) -> NearSide:
    near_side.put("study/1", dicom("1.1"))
    return near_side


class TestGoodAnswer:
    @pytest.mark.parametrize(
        ("coding", "compress"),
        [
            ("gzip", gzip.compress),
            ("x-gzip", gzip.compress),
            ("GZIP", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate", raw_deflate),
            ("gzip, gzip", twice),
            ("identity", as_it_is),
            ("gzip", as_it_is),
            ("", gzip.compress),
        ],
    )
    def test_may_be_compressed_though_nobody_asked_for_it(
        self, one_file: NearSide, far_side: FarSide, dicom: Dicom, coding: str, compress: Compress
    ) -> None:
        """Errors of the store's, too: what they say is understood."""
        throttled = s3_error(400, "ThrottlingException").body
        headers = {"Content-Encoding": coding} if coding else {}

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PRESIGN:
                return Reply(200, compress(far_side.mint(Minted()).body), headers)
            return Reply(400, compress(throttled), headers) if request.n == 1 else None

        far_side.script = script
        row = one_file.run().row("study/1")
        assert (row["status"], row["attempts"]) == ("uploaded", "2")
        assert far_side.bodies == {row["key"]: dicom("1.1")}

    def test_is_asked_for_as_it_is(self, one_file: NearSide, far_side: FarSide) -> None:
        """Of API, token endpoint and store; a signature does not cover that header."""
        secrets = {"client_id": "client", "client_secret": "s3cret:/ &"}
        assert one_file.run(token="", token_url=far_side.token_url, **secrets).exit_code == 0
        assert {request.step for request in far_side.requests} == {*Step}
        assert {request.headers["Accept-Encoding"] for request in far_side.requests} == {"identity"}

    @pytest.mark.parametrize("code", [201, 202])
    def test_may_have_another_status(self, one_file: NearSide, far_side: FarSide, code: int) -> None:
        def script(request: Request) -> Deviation | None:
            is_presign = request.step is Step.PRESIGN
            return Reply(code, far_side.mint(Minted()).body) if is_presign else None

        far_side.script = script
        assert one_file.run().exit_code == 0

    @pytest.mark.parametrize("name", ["a b", "Jäne+1&x=2;(y)", "50%/#1?", "a%20b", "r\\s", "it's", "日本"])
    def test_may_have_a_key_that_needs_quoting(
        self, one_file: NearSide, far_side: FarSide, dicom: Dicom, name: str
    ) -> None:
        far_side.script = lambda request: (
            Minted(key=f"{name}/{request.n}") if request.step is Step.PRESIGN else None
        )
        row = one_file.run().row("study/1")
        assert (row["status"], far_side.bodies) == ("uploaded", {f"{name}/2": dicom("1.1")})


# What is wrong, by the word for it.
WRONG: list[tuple[str, Reply]] = [
    ("empty_answer", Reply(200)),
    ("empty_answer", Reply(204)),
    ("empty_answer", Reply(200, b" \r\n")),
    ("html_answer", Reply(200, b"<!DOCTYPE html><title>Sign in</title>")),
    ("html_answer", Reply(200, gzip.compress(b"\xef\xbb\xbf<html>"), {"Content-Encoding": "gzip"})),
    ("compressed_answer", Reply(200, b"\x0b\x02\x80{}\x03", {"Content-Encoding": "br"})),
    ("no_json", Reply(200, b"url=http://127.0.0.1/&key=k")),
    ("no_json", Reply(200, b'{"url": "http://127.0.0.1/bu')),
    ("no_json_object", answering([])),
    ("no_json_object", answering("text")),
    ("other_letters", answering({"URL": URL, "Key": "k"})),
    ("other_letters", answering({"url": URL, "Key": "k"})),
    ("nested", answering({"data": {"url": URL, "key": "k"}})),
    ("nested", answering({"statusCode": 200, "body": json.dumps({"url": URL, "key": "k"})})),
    ("nested", answering([{"Url": URL, "Key": "k"}])),
    ("nested", answering({"a": {"b": [{"url": URL, "key": "k"}]}})),
    ("no_url", answering({"uploadUrl": URL, "key": "k"})),
    ("no_key", answering({"url": URL})),
    ("no_url_no_key", answering({})),
    ("bad_url", answering({"url": "/bucket/k?X-Amz-Signature=1", "key": "k"})),
    ("bad_url", answering({"url": "bucket/k", "key": "k"})),
    ("bad_url", answering({"url": "https:///bucket/k", "key": "k"})),
    ("bad_url", answering({"url": None, "key": "k"})),
    ("bad_key", answering({"url": URL, "key": ""})),
    ("bad_key", answering({"url": URL, "key": 7})),
    ("unquoted_key", answering({"url": "http://127.0.0.1:1/b/a#1?X-Amz-Signature=1", "key": "a#1"})),
    ("unquoted_key", answering({"url": "http://127.0.0.1:1/b/a?1?X-Amz-Signature=1", "key": "a?1"})),
    ("unquoted_key", answering({"url": "http://127.0.0.1:1/b/a%20b?X-Amz-Signature=1", "key": "a%20b"})),
    ("unquoted_key", answering({"url": "http://127.0.0.1:1/b/50%.dcm?X-Amz-Signature=1", "key": "50%.dcm"})),
    ("unquoted_key", answering({"url": "http://127.0.0.1:1/b/a/../c?X-Amz-Signature=1", "key": "a/../c"})),
]


@pytest.mark.parametrize(("word", "answer"), WRONG)
class TestWrongShape:
    def test_at_the_start_is_named_and_ends_the_run_there(
        self, one_file: NearSide, far_side: FarSide, word: str, answer: Reply
    ) -> None:
        """Asked for a few times; nothing is guessed, nothing is sent, nothing is quoted."""
        far_side.script = always(Step.PRESIGN, answer)
        with pytest.raises(UsageError) as refused:
            one_file.run()
        assert what_is_wrong(word) in str(refused.value)
        assert "Nothing was sent. Check --api-endpoint" in str(refused.value)
        assert "127.0.0.1" not in str(refused.value)
        assert {request.step for request in far_side.requests} == {Step.PRESIGN}
        assert len(far_side.requests) == 5

    def test_of_one_file_fails_that_file(
        self,
        one_file: NearSide,
        far_side: FarSide,
        word: str,
        answer: Reply,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """With the word in the report, and the sentence in the log."""
        far_side.script = lambda request: answer if request.step is Step.PRESIGN and request.n > 1 else None
        run = one_file.run(retries=["presign=1"])
        row = run.row("study/1")
        assert (run.exit_code, row["status"], row["reason"], row["detail"]) == (1, "failed", "presign", word)
        assert f"study 1 file 1 failed: presign, HTTP {row['http_status']} {word}" in caplog.text
        assert what_is_wrong(word) in caplog.text


class TestWrongShapesOfAll:
    """The platform seems to be down, and is not: no waiting mends that."""

    @pytest.fixture
    def fast(self, near_side: NearSide) -> NearSide:
        """A clock by which a second is half an hour, so that no test has to wait for the patience's end."""
        near_side.put_many(60)
        near_side.edges = replace(near_side.edges, clock=lambda: time.monotonic() * 1800)
        return near_side

    def test_stop_a_run_that_got_no_good_answer_yet(self, fast: NearSide, far_side: FarSide) -> None:
        """It began because the platform throttled at first."""
        wrong = answering({"URL": URL, "Key": "k"})
        far_side.script = lambda request: status(429) if request.n <= 5 else wrong
        run = fast.run(max_outage=1e9)
        assert run.exit_code == 3
        assert what_is_wrong("other_letters") in run.summary.problems[0]
        assert "check --api-endpoint, and a proxy or sign-in page" in run.summary.problems[0]
        assert "not_attempted/stopped" in run.statuses.values()
        assert far_side.asked(Step.PUT) == []

    def test_stop_a_run_that_worked_for_a_while(self, fast: NearSide, far_side: FarSide) -> None:
        """After some minutes; what is stored stays so, each key is accounted for."""

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT or request.n <= 8:
                return None
            await_that(lambda: len(far_side.objects) == 7, every_s=0.01)
            return Reply(200, b"<html>Maintenance</html>")

        far_side.script = script
        run = fast.run(max_outage=1e9)
        assert run.exit_code == 3
        assert what_is_wrong("html_answer") in run.summary.problems[0]
        assert list(run.statuses.values()).count("uploaded") == 7
        assert run.keys_told == far_side.keys_handed_out

    @pytest.mark.long
    def test_are_waited_for_as_long_as_that(self, near_side: NearSide, far_side: FarSide) -> None:
        """A sign-in page for a moment fails no run."""
        near_side.put_many(30)
        page = Reply(200, b"<html>Maintenance</html>")
        far_side.script = lambda request: (
            page if request.step is Step.PRESIGN and 8 < request.n <= 40 else None
        )
        assert near_side.run(retries=["presign=100"]).exit_code == 0

    def test_end_within_a_minute(self) -> None:
        """By a real clock: twenty at once, then a probe after 1, 3, 7 and 15 seconds."""
        assert WRONG_ANSWERS_IN_A_ROW <= 20
        assert PATIENCE_S <= 15
        assert LATER_PATIENCE_S < 3600 / 10


class TestBomb:
    @pytest.mark.parametrize("step", [Step.PRESIGN, Step.PUT])
    def test_is_read_in_little_memory(self, one_file: NearSide, far_side: FarSide, step: Step) -> None:
        """64 KiB that would be 64 MiB, twice over."""
        bomb = gzip.compress(gzip.compress(bytes(64 << 20)))
        headers = {"Content-Encoding": "gzip, gzip"}
        code = 200 if step is Step.PRESIGN else 400
        far_side.script = lambda request: (
            Reply(code, bomb, headers)
            if request.step is step and (step, request.n) != (Step.PRESIGN, 1)
            else None
        )
        tracemalloc.start()
        run = one_file.run(retries=["presign=1"])
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert run.statuses["study/1"] in ("failed/presign", "failed/refused")
        assert peak_bytes < 16 << 20


class TestCommand:
    def test_ends_at_once_and_says_what_is_wrong(
        self,
        one_file: NearSide,
        far_side: FarSide,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`upload`, as a person types it."""
        far_side.script = always(Step.PRESIGN, answering({"upload": {"url": URL, "key": "k"}}))
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.chdir(one_file.directory)
        began = time.monotonic()
        assert execute(["upload", "-u", far_side.url, "-p", "archive/study"]) == 2
        assert time.monotonic() - began < 60
        assert what_is_wrong("nested") in capsys.readouterr().err
        assert not Path("report").exists()


class TestTroubleshooting:
    @pytest.mark.parametrize("word", WRONG_SHAPES)
    def test_says_the_same(self, word: str) -> None:
        (row,) = (line for line in OPERATIONS.splitlines() if line.startswith("| `") and f"`{word}`" in line)
        assert WRONG_SHAPES[word] in row
