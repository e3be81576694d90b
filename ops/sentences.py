"""The errors that a person can mend: their messages are sentences, shown without a traceback."""

from deploy.messaging import DeployError
from deploy.yamllines import FleetError
from localcloud.lifecycle import CannotRun
from ops.processes import StartFailed
from ops.releases import Refusal
from ops.scratch import UnusableFolder
from ops.stack import AlreadyRunning
from shared.cloud import CloudError, Denied
from shared.components import CannotSet
from shared.documents import CorruptDocument
from shared.fleets import UnknownFleet
from shared.releases import UnknownRelease, VersionTaken
from shared.settings import SettingsError
from shared.sources import SourceError

EXPECTED = (
    AlreadyRunning,
    CloudError,
    CannotRun,
    CannotSet,
    CorruptDocument,
    DeployError,
    FleetError,
    UnusableFolder,
    OSError,
    Refusal,
    SettingsError,
    SourceError,
    StartFailed,
    UnknownFleet,
    UnknownRelease,
    VersionTaken,
)


def sentence(error: Exception) -> str:
    """Return what to tell a person about an expected error: what is wrong, and what to do next."""
    if isinstance(error, Denied):
        return f"AWS refuses: {error}. Set the AWS_* variables (for a stack on this machine, as 'make up' prints them)."
    if isinstance(error, CloudError):
        return f"AWS: {error}"
    return str(error)
