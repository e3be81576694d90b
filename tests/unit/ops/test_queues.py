"""What a dead letter says of itself is read whatever it holds."""

import pytest

from ops.queues import shortened, trace_of, type_of


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"type": "image.ready", "fleet": "web"}', "image.ready"),
        (
            '{"detail-type": "EC2 AMI State Change", "source": "aws.ec2"}',
            "EC2 AMI State Change",
        ),
        (
            '{"LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}',
            "autoscaling:EC2_INSTANCE_LAUNCHING",
        ),
        ('{"Event": "s3:TestEvent"}', "s3:TestEvent"),
        ('{"type": 5}', ""),
        ("[1]", ""),
        ("5", ""),
        ("poison", ""),
        ("", ""),
    ],
)
def test_a_body_is_named_by_what_it_says_it_is(body: str, kind: str) -> None:
    assert type_of(body) == kind


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_trace_is_read_from_traceparent(traceparent: str, trace: str) -> None:
    assert trace_of(traceparent) == trace


def test_text_is_shortened_to_one_line_without_control_characters() -> None:
    assert shortened("a\n  b\x1b[31mc", 80) == "a b [31mc"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"
    assert shortened("x" * 10, 10) == "x" * 10
