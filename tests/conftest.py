import pytest
from hypothesis import settings

from tests.processes.launch import results

# the same examples every time: what fails here fails wherever it is looked into
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def no_port_is_left_over(monkeypatch):
    """Forget where the processes of an earlier test met: Lightning would meet there again, and the port is taken."""
    monkeypatch.delenv("MASTER_PORT", raising=False)


@pytest.fixture(scope="module")
def pair(request, tmp_path_factory):
    """The folder that the module's ``in_pair(folder)`` has filled, in two processes at once."""
    return results(request, tmp_path_factory, "pair")


@pytest.fixture(scope="module")
def quartet(request, tmp_path_factory):
    """The folder that the module's ``in_quartet(folder)`` has filled, in four processes at once."""
    return results(request, tmp_path_factory, "quartet")
