"""postprocess: what happens to a study once all of it is registered, as a Prefect flow.

The event `dicom.study.registered` starts it, by the trigger of its deployment in deployments/prefect.yaml. It
says which SOP classes each series has, and delivers that: a job of your own goes in its place, in the same
three lines.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.orchestration.lifecycle import final_state
from tasks.core.study_contents import study_contents
from tasks.core.words import counted
from tasks.declaration import load_as
from tasks.postprocess_settings import PostprocessSettings
from tasks.run.postprocessing import registered_study


@flow(
    name="postprocess",
    flow_run_name="study-{study}",
    description="Delivers what a registered study consists of, to a file or a webhook.",
    persist_result=False,
)
def postprocess(
    study: Annotated[int, Field(ge=1)],
    campaign: str = "",
) -> State[dict[str, Any]]:
    """Delivers what a registered study consists of, to a file or a webhook.

    Args:
        study: The study's number in the ledger, as the event dicom.study.registered has it.
        campaign: Whose study it is; empty: the setting DICOM_INGEST_CAMPAIGN of the worker.
    """

    def run() -> State[dict[str, Any]]:
        settings = load_as(PostprocessSettings, campaign=campaign or None)
        with registered_study(study, settings) as found:
            contents = study_contents(found.study_instance_uid, found.metadata())
            found.deliver(contents)
        counts = {"instances": contents["instances"], "series": len(contents["series"])}
        message = f"{counted(counts['instances'], 'instance')} in {counts['series']} series: delivered"
        return Completed(message=message, data=counts)

    return final_state(run)
