import itertools
import os
import socket

import lightning.fabric.plugins.environments.lightning as of_lightning
import pytest
from hypothesis import settings

from tests.processes.launch import results

# the same examples every time: what fails here fails wherever it is looked into
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def ports_of_this_worker():
    """Processes meet on ports that nobody else is given: one that was free a moment ago may be taken by now.

    The system gives away ports from 32768; each worker of pytest-xdist has a thousand below.
    """
    first = 20_000 + 1_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10)
    candidates = itertools.cycle(range(first, first + 1_000))

    def free():
        for port in candidates:
            with socket.socket() as listening:
                if listening.connect_ex(("127.0.0.1", port)) != 0:
                    return port

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_lightning, "find_free_network_port", free)
        yield


@pytest.fixture(scope="module")
def pair(request, tmp_path_factory):
    """The folder that the module's ``in_pair(folder)`` has filled, in two processes at once."""
    return results(request, tmp_path_factory, "pair")


@pytest.fixture(scope="module")
def quartet(request, tmp_path_factory):
    """The folder that the module's ``in_quartet(folder)`` has filled, in four processes at once."""
    return results(request, tmp_path_factory, "quartet")
