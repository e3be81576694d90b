"""The errors that a person can mend: their messages are sentences, shown without a traceback."""

from deploy.yamllines import FleetError
from ops.processes import StartFailed
from ops.releases import Refusal
from shared.cloud import CloudError
from shared.documents import CorruptDocument
from shared.fleets import UnknownFleet
from shared.packing import SourceError
from shared.releases import UnknownRelease, VersionTaken

EXPECTED = (
    CloudError,
    CorruptDocument,
    FleetError,
    PermissionError,
    Refusal,
    SourceError,
    StartFailed,
    UnknownFleet,
    UnknownRelease,
    VersionTaken,
)
