"""A server of imagery for the tests of remote reading and of STAC."""

import pytest

from tests.builders.stac import Server, shorten_waits


@pytest.fixture
def server(scenes, monkeypatch):
    """Serve the folder `scenes` of the test module; requests are repeated without waiting."""
    shorten_waits(monkeypatch)
    server = Server(scenes)
    yield server
    server.close()
