"""What report.html says: of a run, of one that stopped, of what a plan and a verification add."""

import base64
import gzip
import hashlib
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.completeness import StudyTally
from tasks.core.models import EXIT_ONE, Reason, RunFacts, Status, StudyEntry, Summary
from tasks.core.remedies import REMEDIES, command_for, remedy_of
from tasks.report.page import as_text
from tasks.report.page_forecast import forecast_rows
from tasks.report.page_rows import Intervals, PageRows, StudyGroups
from tasks.report.page_words import STOPPED, between, shell_word, tick, tone_of, verdict_of
from tasks.report.report_page import Certified, PageFacts, digest_of, write_report_page
from tests.tasks.report.sample_archive import FORECAST, STARTED_NS, Archive, verification
from tests.tasks.report.sample_report import UNSENT, UPLOADED, facts, row, write

S = 10**9
FINE = "All 10 files are where they should be"


def words(page: str) -> str:
    """What a page says, without its markup."""
    said = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    said = html.unescape(re.sub(r"<[^>]*>", " ", said)).replace("\u00a0", " ")
    return re.sub(r"\s+", " ", said)


def tables(page: str) -> list[list[list[Any]]]:
    """The rows of its large tables."""
    found = []
    for packed in re.findall(r'<script type="text/plain"[^>]*>([^<]*)</script>', page):
        lines = gzip.decompress(base64.b64decode(packed)).decode().splitlines()
        found.append([list(cells) for line in lines for cells in zip(*json.loads(line), strict=True)])
    return found


def page_of(report_dir: Path) -> str:
    return (report_dir / "report.html").read_text("utf-8")


def summary_of(**changes: Any) -> Summary:
    files = changes.get("by_status", {"uploaded": 10})
    plain = Summary(
        run_id="r",
        campaign="default",
        files=sum(files.values()),
        bytes=1,
        by_status=files,
        studies=2,
        complete_studies=2,
        started_at="2026-11-26T08:30:00.000000Z",
        finished_at="2026-11-26T10:30:00.000000Z",
        wall_s=7200,
        files_per_s=1,
        bytes_per_s=1,
        peak_parallel=20,
        exit_code=0,
    )
    return replace(plain, **changes)


class TestVerdict:
    @pytest.mark.parametrize(
        ("changes", "incomplete", "said", "tone"),
        [
            ({}, 0, f"{FINE}; all 2 studies are complete.", "good"),
            (
                {"complete_studies": 1},
                0,
                f"{FINE}; 1 of 2 studies are complete, and the rest lack nothing.",
                "good",
            ),
            (
                {"by_status": {"uploaded": 9, "failed": 1}, "exit_code": 1, "complete_studies": 1},
                1,
                "1 of 10 files is not stored; 1 of 2 studies is not complete.",
                "attention",
            ),
            (
                {"by_status": {"uploaded": 8, "invalid": 2}, "accepted": 2},
                0,
                f"{FINE}, but 2 that somebody accepted as they are; all 2 studies are complete.",
                "good",
            ),
            (
                {"by_status": {"uploaded": 7, "invalid": 3}, "accepted": 2, "exit_code": 1},
                0,
                "3 of 10 files are not stored (2 accepted); all 2 studies are complete.",
                "attention",
            ),
            (
                {"by_status": {"uploaded": 4, "not_attempted": 6}, "exit_code": 3},
                2,
                f"{STOPPED[3]}: 6 of 10 files are not stored; 2 of 2 studies are not complete.",
                "stopped",
            ),
            ({"by_status": {}, "studies": 0, "complete_studies": 0}, 0, "There was no file.", "good"),
        ],
    )
    def test_is_one_sentence(self, changes: dict[str, Any], incomplete: int, said: str, tone: str) -> None:
        summary = summary_of(**changes)
        assert verdict_of(summary, {"false": incomplete}, None) == said
        assert tone_of(summary, None) == tone

    def test_has_what_was_verified(self) -> None:
        summary = summary_of(studies=5, complete_studies=5)
        found = verification(summary)
        assert verdict_of(summary, {}, found).endswith(
            "; bucket and registry confirm 3 of 10 stored instances."
        )
        assert tone_of(summary, found) == "attention"
        whole = replace(found, confirmed=10, exit_code=0, bucket="")
        assert verdict_of(summary, {}, whole).endswith(
            "; registry confirms every one of 10 stored instances."
        )
        assert tone_of(summary, whole) == "good"


class TestWhatNeedsAPerson:
    @pytest.mark.parametrize(("status", "reason"), [key for key in REMEDIES if key[0] in EXIT_ONE])
    def test_has_cause_cure_and_command_of_every_reason(
        self, tmp_path: Path, status: Status, reason: Reason
    ) -> None:
        """In the words of deployments/README.md."""
        write(tmp_path / "it's", [row(UNSENT, status=status, reason=reason)])
        said = words(page_of(tmp_path / "it's"))
        known = remedy_of(status, reason)
        for text in (known.cause, known.action):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", " ")
            assert re.sub(r"\s+", "", plain[1:]) in re.sub(r"\s+", "", said)
        command = command_for(status, reason, shell_word(str(tmp_path / "it's")))
        assert command in said
        assert bool(command) == (status is not Status.TOO_LARGE)
        assert "1 file in 1 study" in said

    def test_has_the_most_frequent_first_with_what_the_store_said(self, tmp_path: Path) -> None:
        details = ["QuotaExceeded"] * 3 + ["AccessDenied"]
        rows = [
            row(UNSENT, status="failed", reason="refused", detail=detail, file_no=number)
            for number, detail in enumerate(details, 1)
        ]
        write(tmp_path, [*rows, row(UNSENT, status="too_large", file_no=9)])
        said = words(page_of(tmp_path))
        assert said.index("failed: refused 4 files") < said.index("too_large 1 file")
        assert "QuotaExceeded , 3 files: The bucket is full: ask the platform for room." in said

    def test_of_a_reason_of_another_version_still_has_a_card(self, tmp_path: Path) -> None:
        write(tmp_path, [row(UNSENT, status="failed", reason="gravity")])
        assert "failed: gravity 1 file in 1 study" in words(page_of(tmp_path))

    def test_has_studies_of_which_no_row_says_what_they_lack(self, tmp_path: Path) -> None:
        write(tmp_path, [row()], [StudyEntry(1, "/archive/1", expected_instances=3)])
        assert "studies that are not complete 1 study, and no file of them failed" in words(page_of(tmp_path))

    def test_leaves_out_what_a_person_accepted(self, tmp_path: Path) -> None:
        accepted = row(UNSENT, status="conflict", detail="accepted (keep) by 4711: the same pixels")
        write(tmp_path, [accepted])
        page = page_of(tmp_path)
        assert "Accepted as they are, by a person: 1 file." in words(page)
        assert "conflict 1 file" not in words(page)
        assert tables(page)[1][0][2] == "conflict"


class TestPage:
    def test_has_no_uid_in_its_tables(self, tmp_path: Path) -> None:
        """Nor a key; it has every study, and the first files of each kind."""
        archive = Archive(6000, 200)
        archive.write(tmp_path)
        studies, files = tables(page_of(tmp_path))
        assert [each[0] for each in studies] == list(range(1, 201))
        assert not re.search(r"1\.2\.\d+|uploads/", json.dumps([studies, files]))
        assert {each[2] for each in files} <= set(EXIT_ONE)

    def test_bounds_the_rows_of_files(self, tmp_path: Path) -> None:
        """And says where all of them are."""
        rows = [
            row(UNSENT, status="not_attempted", reason="stopped", file_no=number) for number in range(1, 3001)
        ]
        write(tmp_path, rows)
        page = page_of(tmp_path)
        assert len(tables(page)[1]) == 50
        assert "report.csv , beside this page. The first of each kind are here, 50 of 3,000." in words(page)
        assert len(page) < 100_000

    def test_of_a_run_without_trouble_says_so_and_has_no_more(self, tmp_path: Path) -> None:
        write(tmp_path, [row()])
        said = words(page_of(tmp_path))
        assert "What needs a person Nothing: every file is where it should be." in said
        assert not any(title in said for title in ("Files that are not fine", "Bucket and", "Forecast"))
        write(tmp_path / "killed", [], [], run=facts(stopped_exit_code=3))
        assert "Nothing: every" not in words(page_of(tmp_path / "killed"))

    def test_says_why_a_run_stopped(self, tmp_path: Path) -> None:
        why = "Stopped: the platform has been down for 3600 s. Then run the same command again."
        write(tmp_path, [row()], run=facts(stopped_exit_code=3, problems=[why, "another one"]))
        said = words(page_of(tmp_path))
        assert said.index("The run stopped before its end: ") < said.index(why) < said.index("Another one.")
        assert said.count(why) == 1

    def test_has_settings_versions_and_the_digests_of_the_other_files(self, tmp_path: Path) -> None:
        run = facts(settings={"on_conflict": "report", "root": "</dd>"}, versions={"dicom-ingest": "0.1.0"})
        write(tmp_path, [row()], run=run)
        said = words(page_of(tmp_path))
        assert "on-conflict report" in said
        assert "root </dd>" in said
        assert "dicom-ingest 0.1.0" in said
        names = ("report.csv", "report.parquet", "studies.csv", "summary.json")
        sha256 = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
        for name, digest in sha256.items():
            assert f"{name} {digest}" in said
        lines = "".join(f"{digest}  {name}\n" for name, digest in sha256.items())
        assert f"Certificate digest {hashlib.sha256(lines.encode()).hexdigest()}" in said
        assert digest_of(sha256 | {"report.html": "x"}) == hashlib.sha256(lines.encode()).hexdigest()

    def test_has_what_was_forecast_beside_what_came_of_it(self) -> None:
        summary = summary_of(forecast={**FORECAST, "by_status": {"uploaded": 9}, "mood": ["calm", 3]})
        assert forecast_rows(summary) == [
            ("Duration", "2 h 2 min", "2 h 0 min"),
            ("Files", "36,200", "10"),
            ("Bytes", "61.0 GB", "1 B"),
            ("End", "26 Nov 2026, 10:40 UTC", "26 Nov 2026, 10:30 UTC"),
            ("By status uploaded", "9", "10"),
            ("Mood", "calm, 3", ""),
        ]
        nested = summary_of(forecast={"forecast": {"files": 3}, "result": {"files": 4}})
        assert forecast_rows(nested) == [("Files", "3", "4")]
        assert forecast_rows(summary_of()) == []

    def test_of_a_verification_has_its_signs_and_repairs(self, tmp_path: Path) -> None:
        summary = Archive(600, 20).write(tmp_path)
        run = Archive(600, 20).facts()
        page = tmp_path / "again.html"
        with page.open("wb") as file:
            rows = PageRows(run.started_ns, run.finished_ns, is_verified=True)
            parts = [Certified("verification-certificate.json", {"studies.csv": "00"})]
            parts.append(Certified("certificate.json", {"studies.csv": "11"}, "22"))
            parts.append(Certified("earlier.json", {"studies.csv": "33"}))
            write_report_page(file, PageFacts(tmp_path, summary, rows, parts, verification(summary)))
        said = words(page.read_text())
        for text in (
            "Bucket and registry",
            "b 2 Not in the bucket",
            "Certificate digest 22",
            "of 20 directories 15",
        ):
            assert text in said, text
        assert f"dicom-ingest run {tmp_path}/repair-manifest.csv --ledger {tmp_path}/ledger.sqlite" in said
        assert f"dicom-ingest ingest --keys {tmp_path}/repair-keys.txt" in said
        assert "earlier.json studies.csv 33" in said  # an earlier version's certificate has no digest


class TestIntervals:
    def test_a_files_bytes_are_spread_over_its_time(self) -> None:
        intervals = Intervals(0, 2 * S)
        assert (intervals.count, intervals.each_s) == (8, 0.25)
        intervals.add_sent(0, S, 500)
        intervals.add_sent(None, 2 * S, 7)
        assert intervals.bytes == [100, 100, 100, 100, 100, 0, 0, 7]

    def test_a_clock_that_was_set_puts_nothing_outside(self) -> None:
        intervals = Intervals(5 * S, 5 * S)
        for started, finished in ((0, 1), (9 * S, 10 * S), (9 * S, 0), (None, None)):
            intervals.add_sent(started, finished, 10)
        intervals.add_failure(-1)
        assert sum(intervals.bytes) == pytest.approx(30)
        assert sum(intervals.failures) == 1

    def test_of_a_week_there_are_as_many_as_of_an_hour(self) -> None:
        assert Intervals(0, 7 * 86_400 * S).count == Intervals(0, 3600 * S).count == 160


def test_groups_of_studies_are_so_many_however_many_studies() -> None:
    groups = StudyGroups()
    for number in range(10_000):
        groups.add("false" if number == 9_999 else "true")
    assert len(groups.groups) <= 120
    assert sum(sum(group.values()) for group in groups.groups) == 10_000
    assert {sum(group.values()) for group in groups.groups[:-1]} == {groups.each}
    assert groups.groups[-1]["false"] == 1


def test_sizes_are_counted_by_class() -> None:
    rows = PageRows(0, S)
    sizes = [None, 0, 1023, 1024, 4095, 500_000, 5 * 2**30]
    blank = dict.fromkeys(("study_no", "file_no", "reason", "detail", "path", "same_uid_path"), [""] * 7)
    none = [None] * 7
    rows.add(
        {**blank, "status": ["uploaded"] * 7, "size_bytes": sizes, "started_ns": none, "finished_ns": none}
    )
    assert [(word, count) for word, count in rows.sizes() if count] == [
        ("1 KiB", 2),
        ("4 KiB", 2),
        ("1 MiB", 1),
        ("16 GiB", 1),
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("/data/report", "/data/report"),
        ("/my data/it's", "'/my data/it'\"'\"'s'"),
        ("/Müller", "/Müller'"),
        ("/a\udcff'b\n", r"$'/a\xff\x27b\x0a'"),
        ("/\u202eback", r"$'/\xe2\x80\xaeback'"),
    ],
)
def test_a_path_is_a_word_of_a_shell(text: str, word: str) -> None:
    assert shell_word(text) == (word if text != "/Müller" else "'/Müller'")


def test_times_say_the_day_once() -> None:
    assert between("2026-11-26T08:30:00Z", "2026-11-26T10:41:00Z") == "26 Nov 2026, 08:30 to 10:41 UTC"
    assert (
        between("2026-11-26T22:30:00Z", "2026-11-27T02:00:00Z") == "26 Nov 2026, 22:30 to 27 Nov, 02:00 UTC"
    )


def test_memory_is_flat(tmp_path: Path) -> None:
    """Of rows nothing is kept but what the page shows."""
    rows = PageRows(STARTED_NS, STARTED_NS + 3600 * S)
    chunk = {
        name: [UPLOADED.get(name, "")] * 1000 for name in ("study_no", "file_no", "reason", "detail", "path")
    }
    chunk |= {"same_uid_path": [""] * 1000, "status": ["failed"] * 1000, "size_bytes": [1000] * 1000}
    chunk |= {"started_ns": [STARTED_NS] * 1000, "finished_ns": [STARTED_NS] * 1000}
    for _ in range(20):
        rows.add(chunk)
    assert rows.files.count == 50
    assert rows.kinds["failed", ""].files == 20_000


def test_a_killed_run_has_a_page_too(tmp_path: Path) -> None:
    """Without settings, slots or times."""
    run = RunFacts(
        "r", "default", STARTED_NS, STARTED_NS, 0, problems=["The run was killed."], stopped_exit_code=3
    )
    write(tmp_path, [row(UNSENT, status="not_attempted", reason="stopped")], run=run)
    said = words(page_of(tmp_path))
    assert "They were not kept: the run was killed" in said
    assert "Slots" not in said


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=20,
)
_BYTES = st.sampled_from("\udc80\udcff")  # that are not UTF-8, as paths have them
_ODD = st.text(st.characters(exclude_categories=["Cs"]) | _BYTES)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_page_is_written_whatever_is_in_it(data: st.DataObject) -> None:
    """For a report is whole or not at all: its page must not be what it fails by."""
    draw = data.draw
    clock = st.integers(-(2**63), 2**63)
    page = PageRows(draw(clock), draw(clock))
    texts = [draw(_ODD) for _ in range(6)]
    cells = {name: [draw(_ODD)] for name in ("reason", "detail", "path", "same_uid_path")}
    sizes = {"size_bytes": [draw(st.none() | st.integers(0, 2**62))]}
    status = {"status": [draw(st.sampled_from(Status))]}
    times = {name: [draw(st.none() | clock)] for name in ("started_ns", "finished_ns")}
    page.add({"study_no": [1], "file_no": [1], **cells, **sizes, **status, **times})
    page.add_study(StudyTally(StudyEntry(1, texts[0], texts[1], label=texts[2])).result())
    summary = summary_of(
        forecast=draw(st.dictionaries(st.text(), _ANYTHING)),
        by_status=draw(st.dictionaries(st.sampled_from(list(Status)), st.integers(0, 2**62))),
        accepted=draw(st.integers(0, 9)),
        problems=texts,
        settings={texts[3]: texts[4]},
        started_at=draw(st.text() | st.just("9999-12-31T23:59:59.999999Z")),
        parallel_course=draw(st.lists(st.tuples(st.floats(0, 10**9), st.integers(0, 20)))),
        exit_code=draw(st.sampled_from([0, 1, 3, 4, 130])),
        wall_s=draw(st.floats(0, 10**12)),
    )
    file = io.BytesIO()
    found = verification(summary) if draw(st.booleans()) and "uploaded" in summary.by_status else None
    write_report_page(file, PageFacts(Path("/r"), summary, page, [Certified("c", {})], found))
    assert file.getvalue().decode().count("<script") in (2, 3)


def test_what_is_neither_text_nor_time_is_shown_all_the_same() -> None:
    """JSON that somebody wrote may have half a character; a clock may be far out."""
    assert as_text("a\ud800<") == "a\\ud800<"
    assert tick(1e15, 1.0) == ""
