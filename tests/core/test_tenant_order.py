"""What is asked of ``flux tenant add`` and ``set`` is read as it was said, or refused."""

import json
from pathlib import Path

import pytest

from flux.store.tenants import Quotas
from flux.supervisor.console_query import BadQueryError
from flux.supervisor.tenant_order import BadTenantError, read_change, read_order


def test_a_change_leaves_what_was_not_said_and_takes_away_what_is_null() -> None:
    before = Quotas(weight=3, requests_per_minute=60, storage_bytes=2**30, cpu_ms_per_minute=500)
    change = read_change(b'{"concurrency": 7, "requests": null, "cpu": "2s"}')
    assert change.apply(before) == Quotas(
        weight=3, concurrency=7, memory_bytes=before.memory_bytes, storage_bytes=2**30, cpu_ms_per_minute=2000
    )


@pytest.mark.parametrize(
    "said", ['{"database_url": "postgresql://other"}', '{"name": "b"}', '{"weight": null}', '{"cpus": "1s"}', "[]", "{"]
)
def test_a_change_of_what_can_not_be_changed_is_refused(said: str) -> None:
    with pytest.raises(BadQueryError) as caught:
        read_change(said.encode())
    assert "postgresql" not in str(caught.value)


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(BadTenantError, match="nothing is said"):
        read_change(b"{}")


def test_an_order_has_its_database_and_quotas(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").touch()
    said = {"name": "acme", "folder": str(tmp_path), "database_url": "postgresql://there/acme", "weight": 2}
    order = read_order(json.dumps(said).encode())
    assert (order.name, order.database_url, order.quotas) == ("acme", said["database_url"], Quotas(weight=2))
