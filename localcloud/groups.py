"""The local cloud's Auto Scaling groups: the pure machine of ``group.py`` with a lock and a world round it.

The seam with the server process, which owns one ``Groups``:

- ``launch(order)`` starts an EC2 instance as the order says and returns at once what was started (``Launched``); it
  raises ``LaunchFailed`` with the reason when EC2 refuses (no such template or image, no capacity). The instance carries
  the launch template's tags and then ``order.tags``, which already hold the group's tags with PropagateAtLaunch and
  ``aws:autoscaling:groupName``. ``order.template`` may name the version ``$Default`` or ``$Latest``: ``Launched`` says
  which number that was. ``order.zone`` and ``order.subnets`` say where.
- ``terminate(instance_id)`` begins to terminate an instance and returns at once. ``instance_terminated`` follows; an
  instance that is gone already is reported so as well.
- ``disown(instance_id)`` takes the tag ``aws:autoscaling:groupName`` off an instance that left its group running.
- ``publish(event)`` puts a whole EventBridge event on the default bus.
- ``send(arn, body)`` sends JSON straight to a hook's queue or topic.
- ``now()`` is the time in epoch seconds.

The server calls ``instance_running``, ``instance_stopped`` and ``instance_terminated`` for every instance, ours or not,
from any thread, also while ``launch`` for it has not returned yet; ``alarm_fired`` for alarm actions that are scaling
policies; and ``tick`` a few times a second. No lock is held while a callable runs, so they may call back.
"""
