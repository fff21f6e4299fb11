"""Why a row of the report has its status, and what to do about it: the one place that says so.

From here derive the table in deployments/README.md, the report's page, and what the log says of a file that
is held back. The texts are Markdown's: code between backticks, links of deployments/README.md.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from tasks.core.errors import FaultKind
from tasks.core.models import EXIT_ONE, Reason, Status
from tasks.core.signs import Sign
from tasks.core.store_answers import KIND_ADVICE


class Way(Enum):
    """Which command goes on from there, once the cause is put right."""

    NOTHING = auto()
    RETRY = auto()
    RESOLVE = auto()


class Remedy(NamedTuple):
    """What is to be said of a status with a reason."""

    cause: str
    action: str
    way: Way = Way.RETRY


REMEDIES: Final[Mapping[tuple[Status, Reason], Remedy]] = {
    (Status.UPLOADED, Reason.NONE): Remedy(
        "stored in this run; reason `malformed`, `no_preamble` or `truncated`: one that `--accept` names",
        "nothing",
        Way.NOTHING,
    ),
    (Status.UPLOADED, Reason.REPLACED): Remedy(
        (
            "earlier content of this path was stored before; its key is in `superseded_keys`, unless that "
            "had another SOP Instance UID: its object stays, and `problems` counts these"
        ),
        "nothing; the platform may want to remove the old object",
        Way.NOTHING,
    ),
    (Status.ALREADY_UPLOADED, Reason.NONE): Remedy(
        "an earlier run stored these bytes; key, attempts, times and run_id are that run's",
        "nothing",
        Way.NOTHING,
    ),
    (Status.DUPLICATE, Reason.NONE): Remedy(
        "same SOP Instance UID and SHA-256 as another file of this report, whose key it has",
        "nothing; `same_uid_path` names that file",
        Way.NOTHING,
    ),
    (Status.CONFLICT, Reason.NONE): Remedy(
        "same SOP Instance UID as a stored file (`same_uid_path`), other bytes; not sent",
        (
            "compare the two: an edited copy, or a device that gives UIDs twice. `--on-conflict upload` "
            "sends both"
        ),
        Way.RESOLVE,
    ),
    (Status.NOT_DICOM, Reason.DICOMDIR): Remedy(
        "the index of a disc, no image object",
        "nothing",
        Way.NOTHING,
    ),
    (Status.NOT_DICOM, Reason.EMPTY): Remedy(
        "no bytes, and no image beside it has its name, digits aside",
        "nothing, unless images are missing: then copy it again",
        Way.NOTHING,
    ),
    (Status.NOT_DICOM, Reason.ARCHIVE): Remedy(
        (
            "a ZIP, TAR or another archive; what is in it is not looked at, unless `detail` is `its members "
            "have rows of their own`. With `--archives` what can't be read, an archive or a member of one, "
            "is `unreadable` with this reason, exit code 1; `detail` says [why](#archives-media-and-stores)"
        ),
        "when it may hold images, run again with `--archives`; what that can't read: unpack it with its own "
        "program",
        Way.NOTHING,
    ),
    (Status.NOT_DICOM, Reason.TEXT): Remedy(
        "a text file",
        "nothing",
        Way.NOTHING,
    ),
    (Status.NOT_DICOM, Reason.SYSTEM_FILE): Remedy(
        "what an operating system leaves behind (`Thumbs.db`, `.DS_Store`)",
        "nothing",
        Way.NOTHING,
    ),
    (Status.NOT_DICOM, Reason.OTHER): Remedy(
        "none of these, and no DICOM",
        "look at it once: a picture, a viewer's program, a damaged file",
        Way.NOTHING,
    ),
    (Status.INVALID, Reason.NO_PREAMBLE): Remedy(
        (
            "DICOM without the 128 bytes and `DICM` that a file begins with (PS3.10 7.1); an ACR-NEMA "
            "image, too"
        ),
        "export it again, or write a preamble with a DICOM tool, or `--accept no_preamble`",
    ),
    (Status.INVALID, Reason.TRUNCATED): Remedy(
        (
            "it ends before its own lengths or frames say, a copy that was cut off: `it ends within an "
            "element`, `it ends within a sequence`, `it ends within its pixel data`, `it ends before its "
            "last frame`, `it ends within its deflated data`. `zeros`: nothing but zeros; `empty`: no "
            "bytes, and an image beside it has its name, digits aside (`IM0001` beside `IM0002`)"
        ),
        "copy it again from its source, or `--accept truncated`",
    ),
    (Status.INVALID, Reason.NO_UID): Remedy(
        "DICOM without a SOP Instance UID",
        "export it again",
    ),
    (Status.INVALID, Reason.MALFORMED): Remedy(
        (
            "its end can't be found, or its UID is none: `an element has no end that can be found`, `a "
            "sequence has no end that can be found`, `it has more elements than can be looked at`, `what "
            "stands in place of a UID is none`, `its deflated data are damaged or too large`, `its data "
            "set is another file, with a preamble of its own`"
        ),
        "export it again, or `--accept malformed`; keep the file for whoever made it",
    ),
    (Status.UNREADABLE, Reason.PERMISSION): Remedy(
        "the account of the run may not read it, or not list the directory",
        "give it the right to read, run again",
    ),
    (Status.UNREADABLE, Reason.IO_ERROR): Remedy(
        "the disk or share gave an error",
        "look at the disk, run again",
    ),
    (Status.UNREADABLE, Reason.BROKEN_LINK): Remedy(
        "a link to nothing",
        "mount or restore what it leads to; when it is removed, it is `missing`",
    ),
    (Status.UNREADABLE, Reason.LINK_LOOP): Remedy(
        "a link that leads into itself",
        "remove it",
    ),
    (Status.UNREADABLE, Reason.LINK_OUTSIDE_ROOT): Remedy(
        "a link out of `--root`, or without one out of all study directories",
        "name a `--root` that holds it, when it belongs to the archive",
    ),
    (Status.MISSING, Reason.NOT_FOUND): Remedy(
        (
            "the manifest's `study_dir` is not there; the row's path is that directory. Or a file that a "
            "DICOMDIR [lists](#archives-media-and-stores) and that is absent. Or a file under a "
            "`study_dir` that an earlier run of the campaign left with exit code 1, and that is gone, its "
            "bytes or its SOP Instance UID stored nowhere; the row's path is that file"
        ),
        (
            "mount the share, or correct the manifest (a letter such as `ü` has two spellings in Unicode, "
            "NFC and NFD: the manifest's has to be the disk's); restore the file: each run has this row "
            "until it is there again or stored from elsewhere"
        ),
    ),
    (Status.MISSING, Reason.NOT_A_DIRECTORY): Remedy(
        "there is something else under this name; a file has its own row under the study that holds it",
        "correct the manifest",
    ),
    (Status.CHANGED, Reason.DAMAGED): Remedy(
        (
            "what is stored of this path (`key` and UIDs say what) is not in the file any more, which is "
            "no whole image now: `detail` says what it is (`empty`, `zeros`, `text`, `truncated`, ...)"
        ),
        "restore it from a backup, or from its object, and run again; do not delete that object",
    ),
    (Status.CHANGED, Reason.ALTERED): Remedy(
        (
            "other bytes than are stored of this path (`key` and UIDs), under the same size and mtime: bit "
            "rot or worse, no edit; not sent"
        ),
        (
            "compare it with its object, look at the disk; restore it, or `--on-conflict upload` when the "
            "file is right"
        ),
    ),
    (Status.CHANGED, Reason.NONE): Remedy(
        "it kept changing while it was sent; its key is superseded",
        "run again when its writer has finished; `--min-age 600` leaves young files alone",
    ),
    (Status.TOO_LARGE, Reason.NONE): Remedy(
        "over 5 GiB, S3's most for one PUT",
        "the platform has to offer another way",
        Way.NOTHING,
    ),
    (Status.FAILED, Reason.AUTH): Remedy(
        "the API refused this file's presign (403) while others passed",
        "ask the platform",
    ),
    (Status.FAILED, Reason.PRESIGN): Remedy(
        "answers without a URL and a key",
        "look at `detail`; ask the platform",
    ),
    (Status.FAILED, Reason.EXPIRED): Remedy(
        "presigned URLs were over before they could be used",
        "set the machine's clock; ask the platform for URLs that live longer",
    ),
    (Status.FAILED, Reason.THROTTLED): Remedy(
        'the platform said "slow down" to this file until its budget was spent',
        KIND_ADVICE[FaultKind.THROTTLED],
    ),
    (Status.FAILED, Reason.NETWORK): Remedy(
        "no connection, time-outs or resets on this file, while others passed",
        KIND_ADVICE[FaultKind.NETWORK],
    ),
    (Status.FAILED, Reason.SERVER): Remedy(
        (
            '5xx but 501 and 505, 408, 423, 425, 499, or a 409 that says "again" for this file, again '
            "and again"
        ),
        KIND_ADVICE[FaultKind.SERVER],
    ),
    (Status.FAILED, Reason.INTEGRITY): Remedy(
        "what the store says it received is not what was sent",
        "run again; if it stays, something on the way rewrites bodies",
    ),
    (Status.FAILED, Reason.REFUSED): Remedy(
        "the store answered 403 or another 4xx to the PUT, to a new URL too",
        (
            "`detail` has S3's code: [what the platform answers](#what-the-platform-answers); `ledger`: "
            "the database refused the file's row"
        ),
    ),
    (Status.FAILED, Reason.INTERRUPTED): Remedy(
        "the run ended while its PUT was under way",
        "run again",
    ),
    (Status.NOT_ATTEMPTED, Reason.NOT_SCANNED): Remedy(
        "the run stopped before it listed this study",
        "run again",
    ),
    (Status.NOT_ATTEMPTED, Reason.STOPPED): Remedy(
        "the run stopped before it came to this file",
        "run again",
    ),
    (Status.NOT_ATTEMPTED, Reason.TOO_YOUNG): Remedy(
        "changed less than `--min-age` ago",
        "run again later",
    ),
}
# Of an instance that was verified, by its sign.
SIGNS: Final[Mapping[Sign, Remedy]] = {
    Sign.EVERYWHERE: Remedy(
        "confirmed on each side that was asked: its bytes were compared, or its name alone",
        "nothing",
        Way.NOTHING,
    ),
    Sign.NOT_REGISTERED: Remedy(
        "not in the registry",
        "`dicom-ingest ingest --keys report/repair-keys.txt`",
        Way.NOTHING,
    ),
    Sign.NOT_IN_BUCKET: Remedy(
        "not in the bucket; or neither there nor in the registry",
        (
            "`dicom-ingest run report/repair-manifest.csv`, with `--report-dir` of another name and "
            "`--ledger report/ledger.sqlite`; what was in neither place is then in the bucket under a new "
            "key: ingest, or verify again and use the new repair-keys.txt"
        ),
        Way.NOTHING,
    ),
    Sign.REGISTRY_ALONE: Remedy(
        "in the registry alone, or the report does not call it stored; no reason for exit 1",
        "find out who sent it",
        Way.NOTHING,
    ),
    Sign.DIFFERS: Remedy(
        (
            "the bucket has other bytes, the registry has it in another study or its copy differs, ingest "
            "found or registered other bytes there (`conflict`), or stored files with other bytes have its "
            "UID"
        ),
        "run ingest, where it has not looked at this object since it was sent; else a person has to look",
        Way.NOTHING,
    ),
    Sign.UNKNOWN: Remedy(
        "the bucket or the registry gave no certain answer; verification.json says which",
        "verify again",
        Way.NOTHING,
    ),
}
_NAMED: Final = {(str(status), str(reason)): known for (status, reason), known in REMEDIES.items()}
_UNKNOWN: Final = Remedy("report.csv says more, in `detail`.", "put it right, run again")


def remedy_of(status: str, reason: str) -> Remedy:
    """That of the pair, else of the status alone; of words that this version does not know a general one."""
    return _NAMED.get((status, reason)) or _NAMED.get((status, "")) or _UNKNOWN


def command_for(status: str, reason: str, report_dir: str) -> str:
    """What to type once the cause is put right; empty where none helps. `report_dir`: as a shell has it."""
    match remedy_of(status, reason).way:
        case Way.RESOLVE:
            return f"dicom-ingest resolve {report_dir}"
        case Way.RETRY if status in EXIT_ONE:
            which = f" --reason {reason}" if reason else ""
            return f"dicom-ingest retry {report_dir} --status {status}{which}"
    return ""
