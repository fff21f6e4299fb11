"""The command `ingest`: the platform's pipeline."""

from flows.cli.options import IngestOptions
from flows.orchestration.standard_streams import say_lines
from tasks.ingest_settings import IngestSettings, RegistrationSettings, load_ingest
from tasks.process_memory import keep_imports


def ingest(*, options: IngestOptions = IngestOptions()) -> int:
    """Register new objects of a bucket over DICOMweb as a Prefect flow, and write what became of each.

    New is what the ledger does not know by key and ETag to be registered. The bucket's credentials, endpoint
    and region are boto3's own: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3, AWS_REGION.
    Beside an upload's report, with its ledger, an object has to be what was uploaded to its key.

    It runs against the Prefect server that PREFECT_API_URL or the profile names, or else an embedded one.
    """
    from flows.cli.local_flow import require_server, run_flow_of
    from flows.orchestration.registration_display import counts, lines
    from tasks.report.registration_report import read_registration
    from tasks.run.early_end import safe_errors
    from tasks.run.registration import check

    given = options.given(IngestSettings)
    with safe_errors():  # what can be known to be wrong is said before Prefect takes seconds to start
        settings = load_ingest(**given)
        require_server()
        check(settings)
    keep_imports()
    summary = run_flow_of(
        "ingest",
        read_registration,
        bucket=settings.bucket,
        dicomweb_url=settings.dicomweb_url,
        dicomweb_server=settings.dicomweb_server.value,
        report_dir=str(settings.report_dir.absolute()),
        options=_options(options.given(RegistrationSettings)),
    )
    say_lines(lines(summary, settings.report_dir), **counts(summary))
    return summary.exit_code


def _options(given: dict[str, object]) -> object:
    from flows.orchestration.parameters import RegistrationOptions

    return RegistrationOptions.model_validate(given)
