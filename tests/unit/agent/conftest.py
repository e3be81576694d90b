from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeObjects
from tests.unit.agent.bench import Bench, Origin


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    objects = FakeObjects()
    with Origin(objects.bodies).serving() as origin:
        yield Bench(tmp_path, objects, origin)
