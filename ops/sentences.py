"""The errors that a person can mend: their messages are sentences, shown without a traceback."""

from deploy.messaging import DeployError
from deploy.yamllines import FleetError
from localcloud.lifecycle import CannotRun
from ops.processes import StartFailed
from ops.releases import Refusal
from ops.scratch import NotOurs
from ops.stack import AlreadyRunning
from shared.cloud import CloudError
from shared.documents import CorruptDocument
from shared.fleets import UnknownFleet
from shared.packing import SourceError
from shared.releases import UnknownRelease, VersionTaken

EXPECTED = (
    AlreadyRunning,
    CloudError,
    CannotRun,
    CorruptDocument,
    DeployError,
    FleetError,
    NotOurs,
    OSError,
    Refusal,
    SourceError,
    StartFailed,
    UnknownFleet,
    UnknownRelease,
    VersionTaken,
)
