"""What a person may type, for each command: in its help, in the reference and in the manual page.

It imports nothing. A test reads each line as the command line does.
"""

from typing import Final

EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "demo": (("dicom-ingest demo --directory try --slices 50", "a small one, into the directory try"),),
    "sandbox": (
        ("dicom-ingest sandbox", "until Ctrl-C; it prints the settings that lead to it"),
        ("dicom-ingest sandbox --store-answers kms --damage-every 5", "as a store with KMS keys, and faults"),
    ),
    "manifest": (
        ("dicom-ingest manifest /archive -o manifest.csv --scan", "with what a run will store of each study"),
        ("dicom-ingest manifest /archive/2024 /archive/2025 -o manifest.parquet", "of two directories"),
    ),
    "plan": (
        ("dicom-ingest plan manifest.csv", "what a run would meet, and how long it takes; nothing is sent"),
        ("dicom-ingest plan manifest.csv --full --json", "of all headers, for a script"),
    ),
    "upload": (
        (
            "dicom-ingest upload -u https://api.example.org -p /archive/study --list",
            "one study, file by file",
        ),
        ("dicom-ingest upload -p scan.dcm --report-dir report", "one file; the API is in the environment"),
    ),
    "run": (
        ("dicom-ingest run manifest.csv --report-dir report", "and the same again goes on from there"),
        ("dicom-ingest run manifest.csv --parallel 8 --accept truncated --quiet", "fewer slots; for cron"),
    ),
    "migrate": (
        (
            "dicom-ingest migrate manifest.csv --ledger postgresql://ingest@db/ledger --shards 16",
            "sixteen parts, for the workers of a Prefect work pool",
        ),
    ),
    "serve": (("dicom-ingest serve --port 4200", "Prefect's UI at http://127.0.0.1:4200"),),
    "ingest": (
        (
            "dicom-ingest ingest --bucket s3://uploads --dicomweb-url https://pacs.example.org/dicom-web",
            "new objects of a bucket",
        ),
        (
            "dicom-ingest ingest --keys report/repair-keys.txt --report-dir report",
            "what verify found missing",
        ),
    ),
    "verify": (
        (
            "dicom-ingest verify report --dicomweb-url https://pacs.example.org/dicom-web --deep 1%",
            "the registry; one instance in a hundred is retrieved and compared",
        ),
        ("dicom-ingest verify report --bucket s3://uploads", "the bucket alone"),
    ),
    "status": (
        ("dicom-ingest status", "of the ledger in ./report"),
        ("dicom-ingest status --ledger postgresql://ingest@db/ledger", "from another machine"),
    ),
    "retry": (
        ("dicom-ingest retry report", "whatever is left"),
        ("dicom-ingest retry report --status failed --reason network", "that alone"),
    ),
    "resolve": (
        ("dicom-ingest resolve report", "its conflicts, one by one"),
        (
            'dicom-ingest resolve report --status conflict --decision keep --reason-text "a test scan"',
            "all of them by one rule, with the reason that goes into the audit trail",
        ),
    ),
    "report": (
        ("dicom-ingest report report", "of its newest run, after a crash or a full disk"),
        ("dicom-ingest report report --ledger postgresql://ingest@db/ledger", "from a ledger elsewhere"),
    ),
    "audit": (
        ("dicom-ingest audit report", "the trail, its certificates and the report"),
        ("dicom-ingest audit report --public-key public.pem", "and by whom it was signed"),
    ),
}


def examples_of(command: str) -> str:
    """For its help: each line, and above it what it is for; empty without any."""
    lines = [f"  # {what}\n  {line}" for line, what in EXAMPLES.get(command, ())]
    return "\n".join(["Examples", *lines]) if lines else ""
