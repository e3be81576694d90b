import pytest

from shared.aws.servers import Servers


async def never() -> object:
    raise AssertionError("nothing may be asked of AWS")


@pytest.mark.fault(30)
async def test_no_tags_do_not_mean_every_instance() -> None:
    with pytest.raises(ValueError, match="no tags"):
        await Servers(never, never).tagged({})  # type: ignore[arg-type]


@pytest.mark.fault(30)
async def test_no_servers_mean_none() -> None:
    class Silent:
        def get_paginator(self, _: str) -> "Silent":
            return self

    async def client() -> object:
        return Silent()

    assert await Servers(client, never).instances([]) == {}  # type: ignore[arg-type]
