"""What a person at a terminal reads first. It imports nothing, so `dicom-ingest --help` answers at once."""

from typing import Final

SETTINGS_HELP: Final = """\
Every option under "Where and how" is also a setting DICOM_INGEST_<NAME>, such
as DICOM_INGEST_API_ENDPOINT. Secrets are settings only: DICOM_INGEST_TOKEN,
or DICOM_INGEST_TOKEN_URL with DICOM_INGEST_CLIENT_ID and
DICOM_INGEST_CLIENT_SECRET; an API key is DICOM_INGEST_API_KEY."""

VERIFY_HELP: Final = """\
Every option under "Where and how" is also a setting DICOM_INGEST_<NAME>, such
as DICOM_INGEST_BUCKET. Secrets are settings only: DICOM_INGEST_DICOMWEB_TOKEN,
or DICOM_INGEST_DICOMWEB_TOKEN_URL with DICOM_INGEST_DICOMWEB_CLIENT_ID and
DICOM_INGEST_DICOMWEB_CLIENT_SECRET, or DICOM_INGEST_DICOMWEB_USER and
DICOM_INGEST_DICOMWEB_PASSWORD. A bucket's are boto3's own: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3, AWS_REGION.

Exit code 0: every instance that the report calls stored is confirmed on each
side that was asked; 1: not; 2: the command or a setting is wrong, or the
bucket has none of the keys; 3: of some it could not be known; 4: credentials
refused; 130: interrupted, and nothing was written."""

PLAN_HELP: Final = f"""\
{SETTINGS_HELP}

Exit code: that of a run, as far as it can be known. 0: nothing is in its way;
1: some files would not be stored, a study would not be complete, or the disk
is too small; 2: the run would not begin; 4: credentials are refused; 130:
interrupted."""

STATUS_HELP: Final = """\
Every option under "Where and how" is also a setting DICOM_INGEST_<NAME>, such
as DICOM_INGEST_LEDGER. The ledger is that of --ledger, else ledger.sqlite in
--report-dir.

Exit codes: 5 a run is at work; 0 none is; 2 the command or a setting is wrong,
there is no ledger, or it is of another version; 3 the ledger can't be read."""

EXIT_CODES_HELP: Final = """\
Exit codes: 0 every file is where it should be; 1 some are not, and the report
says which and why; 2 the command, a setting or the manifest is wrong, or the
API does not answer at the start, and nothing was attempted; 3 stopped early;
4 credentials refused; 5 `status`: a run is at work; 130 interrupted. Once the
scan has begun, the report is complete whatever the code, and the same command
goes on from there."""

FIRST_PAGE: Final = f"""\
Usage: dicom-ingest COMMAND [OPTIONS]

Moves an archive of DICOM studies into a cloud imaging platform, and proves it.

Try it out
  demo      sample studies to a platform on this machine, and a report
  sandbox   that platform alone: upload API, S3 and DICOMweb, until Ctrl-C

Move an archive
  manifest  write a manifest of an archive: one row per study directory
  plan      what a run would find, what would fail, how long it takes
  upload    one file or directory at once, without Prefect
  run       the studies of a manifest, as a Prefect flow
  migrate   the same by many workers of a Prefect work pool, to one report
  serve     a Prefect server with its UI and the deployments, until Ctrl-C
  status    how far runs are and what is left, while they last and afterwards

Take it in
  ingest    new objects of a bucket, registered over DICOMweb

Work off what is left
  retry     what the last run left, sent again by the ledger
  resolve   conflicts and other exceptions: what differs; decided, in the trail

Prove it
  verify    hold a report against bucket and registry: what may be deleted
  report    write a directory's newest report again: after a crash or full disk
  audit     check a report's audit trail: chain, certificate and agreement

Options
  --help, -h                    this page; after a command, about that one
  --version                     which version this is
  --install-completion [SHELL]  have bash, zsh or fish complete commands

A first migration
  export DICOM_INGEST_API_ENDPOINT=https://api.example.org
  read -rs DICOM_INGEST_TOKEN && export DICOM_INGEST_TOKEN
  dicom-ingest manifest /archive --output manifest.csv
  dicom-ingest run manifest.csv

{SETTINGS_HELP}

{EXIT_CODES_HELP}
"""
