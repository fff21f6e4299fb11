"""What a run tells Prefect's events, for automations: its end, and which studies are incomplete.

    dicom-ingest.<flow>.completed       exit code 0; the flow is backfill, migrate, migrate-shard, ingest
    dicom-ingest.<flow>.incomplete      exit code 1: the report says which files, and why
    dicom-ingest.<flow>.to_be_continued exit code 1, for --window, --max-files or --max-duration ended the run
    dicom-ingest.<flow>.interrupted     suspended or cancelled by a person, or the machine shut down
    dicom-ingest.<flow>.stopped         stopped early: the platform down for too long; credentials refused,
                                        also before the run could begin
    dicom-ingest.verify.completed       everything is confirmed; .incomplete: not; .stopped: not known of some
    dicom-ingest.study.incomplete       one study, by its number and label; the first twenty of a run

The resource is the campaign (`dicom-ingest.campaign.<name>`) or a study of it (`....study.<number>`). Prefect
adds flow run and deployment. Counts, numbers and labels alone: no path, no UID.
"""

import logging
from itertools import islice
from pathlib import Path
from typing import Any, Final

from prefect.events import emit_event

from flows.orchestration.artifacts import incomplete_studies
from tasks.core.errors import InterruptedRunError
from tasks.core.models import Summary

log = logging.getLogger("dicom_ingest")

_MOST_STUDIES: Final = 20  # whatever the number of studies: an event is a row in the server's database
_ENDS: Final = {0: "completed", 1: "incomplete", InterruptedRunError.exit_code: "interrupted"}


def emit_end(flow: str, summary: Summary, report_dir: Path) -> None:
    """The run's end; a server that takes no events costs them, never the run."""
    campaign = f"dicom-ingest.campaign.{summary.campaign}"
    counts = {
        "run_id": summary.run_id,
        "exit_code": summary.exit_code,
        "files": summary.files,
        "by_status": summary.by_status,
        "studies": summary.studies,
        "complete_studies": summary.complete_studies,
    }
    end = "to_be_continued" if summary.ended_by else _ENDS.get(summary.exit_code, "stopped")
    _emit(f"{flow}.{end}", campaign, summary.campaign, counts)
    lists_studies = flow != "migrate-shard" and not summary.ended_by  # a migration tells of its studies once
    if summary.complete_studies == summary.studies or not lists_studies:
        return
    for study in islice(incomplete_studies(report_dir), _MOST_STUDIES):
        name = study["label"] or f"study {study['study_no']}"
        _emit("study.incomplete", f"{campaign}.study.{study['study_no']}", name, study)


def emit_registered(campaign: str, exit_code: int, counts: dict[str, Any]) -> None:
    """The end of an ingest."""
    _emit(f"ingest.{_ENDS.get(exit_code, 'stopped')}", f"dicom-ingest.campaign.{campaign}", campaign, counts)


def emit_verified(campaign: str, exit_code: int, counts: dict[str, Any]) -> None:
    """A verification's end."""
    _emit(f"verify.{_ENDS.get(exit_code, 'stopped')}", f"dicom-ingest.campaign.{campaign}", campaign, counts)


def emit_stopped(flow: str, campaign: str, counts: dict[str, Any]) -> None:
    """A run was stopped that has no summary: of several manifests, or before it could begin."""
    _emit(f"{flow}.stopped", f"dicom-ingest.campaign.{campaign}", campaign, counts)


def _emit(event: str, resource_id: str, name: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": resource_id, "prefect.resource.name": name}
    try:
        emit_event(f"dicom-ingest.{event}", resource=resource, payload=payload)
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect took no event (%s)", type(error).__name__)
