"""The local cloud: moto's server in this process, with our overlays and one set of machines behind it."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path
from threading import Event
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from localcloud import autoscaling, events, overlay, processes, s3, sqs, templates
from localcloud.background import repeat
from localcloud.cloudwatch import MetricAlarms
from localcloud.commands import Commands
from localcloud.delivery import deliver
from localcloud.elsewhere import Elsewhere
from localcloud.events import Events
from localcloud.groupworld import make_groups
from localcloud.images import Images
from localcloud.instances import Instances
from localcloud.machines import Machines
from localcloud.processes import Processes
from localcloud.queuemetrics import QueueMetrics
from localcloud.schedules import Schedules
from localcloud.ssm import SystemsManager, announcing
from shared.clock import Clock

log = logging.getLogger("localcloud")

_FORM = "application/x-www-form-urlencoded"

ALARMS_EVERY_S = 1.0
QUEUE_METRICS_EVERY_S = 1.0
GROUPS_EVERY_S = 0.2
SCHEDULES_EVERY_S = 0.5
REAP_EVERY_S = 0.5


class LocalCloud:
    """Everything that one ``python -m localcloud`` is made of. One in a process: the overlays are on moto's classes."""

    def __init__(self, listening: socket.socket, state: Path, clock: Clock, messages_endpoint: str | None):
        self._over = Event()
        self._state = state
        self._clock = clock
        self._processes = Processes(state)
        host, port = listening.getsockname()
        self._elsewhere = Elsewhere(messages_endpoint) if messages_endpoint else None
        reach = self._elsewhere.deliver if self._elsewhere else deliver
        self.events = Events(clock, self._elsewhere)
        self.instances = Instances(self.events)
        self.machines = Machines(state, network_of(port), self._processes, self.instances.changed)
        self.images = Images(self.events, self.machines)
        self.groups = make_groups(self.instances, self.machines, self.events, reach, clock)
        self.alarms = MetricAlarms(self.events, reach, self.groups.alarm_fired, clock)
        self.queue_metrics = QueueMetrics(clock)
        commands = Commands(state, self.machines, self._processes, clock, announcing(self.events))
        self.systems_manager = SystemsManager(commands)
        self.schedules = Schedules(self.events, clock)
        self._server: BaseWSGIServer = make_server(
            host,
            port,
            _keep_bodies(DomainDispatcherApplication(create_backend_app)),
            threaded=True,
            request_handler=MotoRequestHandler,
            fd=listening.fileno(),
        )

    def prepare(self) -> None:
        """Put the overlays on moto, make the stock image, and start what runs by itself."""
        self._processes.adopt_orphans()
        tempfile.tempdir = str(self._state / "tmp")  # where moto keeps large objects
        overlay.answer_errors()
        events.install()
        s3.install()
        templates.install()
        sqs.install(self._clock)
        self.instances.install(self.machines)
        self.images.install()
        self.alarms.install()
        self.systems_manager.install()
        autoscaling.install(self.groups)
        self.images.add_stock_image()
        if self._elsewhere:
            self._elsewhere.start(self._over)
        repeat(self._processes.reap_orphans, REAP_EVERY_S, self._over)
        repeat(self.queue_metrics.tick, QUEUE_METRICS_EVERY_S, self._over)
        repeat(self.alarms.tick, ALARMS_EVERY_S, self._over)
        repeat(self.groups.tick, GROUPS_EVERY_S, self._over)
        repeat(self.schedules.tick, SCHEDULES_EVERY_S, self._over)

    def serve(self) -> None:
        """Answer requests until ``stop``."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Stop answering, and end every process that was started."""
        self._over.set()
        self._server.shutdown()

    def end_processes(self) -> None:
        """End every process that this local cloud started, directly or not."""
        self._processes.start_no_more()
        logging.disable()  # what is cut off now is nobody's concern any more
        processes.end(lambda: processes.marked(self._state) | processes.children_of(os.getpid()))
        self._processes.reap_orphans()


def _keep_bodies(application: Any) -> Any:
    """Have a PUT's body stored as it came, also when a client such as urllib calls it a form."""

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT" and environ.get("CONTENT_TYPE") == _FORM:
            environ["CONTENT_TYPE"] = "binary/octet-stream"
        return application(environ, start_response)

    return answer


def network_of(port: int) -> str:
    """Return the /24 in 127.0.0.0/8 whose addresses are the instances' of the local cloud on this port."""
    return f"127.{port >> 8}.{port & 255}"
