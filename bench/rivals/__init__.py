"""Rivals of the consumer: what each runs, in the interpreter of an environment of their own.

Each program is told ``send`` (one message, which the queue server repeats) or ``consume``, the address of the queue
server, and the queue. Each is set up as its own manual says for speed: receiving in tens where it can, one process, no
results, logs from warnings on. They delete one message a request; none of them can do otherwise.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

PYTHON = Path(".venv-rivals/bin/python")


def install() -> None:
    """Make the environment, unless it is there.

    Raises:
        subprocess.CalledProcessError: it could not be made; the script said why.
    """
    subprocess.run(["sh", str(Path(__file__).with_name("environment.sh"))], check=True)


CELERY = """
import sys
import celery

_, role, url, queue, pad = sys.argv
app = celery.Celery(broker="sqs://test:test@" + url.removeprefix("http://") + "//")
app.conf.update(
    task_default_queue=queue,
    task_ignore_result=True,
    worker_prefetch_multiplier=10,
    broker_transport_options={
        "region": "us-east-1",
        "is_secure": False,
        "wait_time_seconds": 20,
        "predefined_queues": {queue: {"url": f"{url}/000000000000/{queue}"}},
    },
)

@app.task(name="work")
def work(text):
    return None

if role == "send":
    work.delay("x" * int(pad))
else:
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    app.worker_main(["worker", "--pool", "solo", *quiet])
"""

DRAMATIQ = """
import sys
import time
import dramatiq
from dramatiq_sqs import SQSBroker

_, role, url, queue, pad = sys.argv
broker = SQSBroker(endpoint_url=url, region_name="us-east-1")
dramatiq.set_broker(broker)

@dramatiq.actor(queue_name=queue)
def work(text):
    return None

if role == "send":
    work.send("x" * int(pad))
else:
    dramatiq.Worker(broker, worker_threads=8).start()
    while True:
        time.sleep(3600)
"""

TASKIQ = """
import asyncio
import sys
from taskiq.api import run_receiver_task
from taskiq_aio_sqs import SQSBroker

_, role, url, queue, pad = sys.argv
broker = SQSBroker(
    queue,
    endpoint_url=url,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    max_number_of_messages=10,
    wait_time_seconds=20,
)

@broker.task(task_name="work")
async def work(text):
    return None

async def main():
    await broker.startup()
    if role == "send":
        await work.kiq("x" * int(pad))
        await broker.shutdown()
    else:
        await run_receiver_task(broker, max_async_tasks=8, max_prefetch=10)

asyncio.run(main())
"""
