from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from models.errors import Forbidden, SettingsError, Unauthenticated
from service.locks import Access, Locks
from service.settings import Settings

CLIENT = "key-of-a-client-1"
OTHER_CLIENT = "key-of-a-client-2"
ADMIN = "key-of-an-operator"
NOBODY = "key-of-nobody-here"
KEYS = (None, CLIENT, OTHER_CLIENT, ADMIN, NOBODY)


def locks(folder: Path, clients: bool, admins: bool, metrics_key: bool = False) -> Locks:
    keys_file, admin_keys_file = folder / "keys", folder / "admin_keys"
    keys_file.write_text(f"{CLIENT}\n{OTHER_CLIENT}\n")
    admin_keys_file.write_text(f"{ADMIN}\n")
    return Locks(
        Settings(
            keys_file=keys_file if clients else None,
            admin_keys_file=admin_keys_file if admins else None,
            metrics_key=metrics_key,
        )
    )


def bearer(key: str | None) -> str | None:
    return None if key is None else f"Bearer {key}"


def answer(locks: Locks, access: Access, authorization: str | None) -> str:
    try:
        locks.check(access, authorization)
    except Unauthenticated:
        return "unauthenticated"
    except Forbidden:
        return "forbidden"
    return "passes"


def answers(locks: Locks, access: Access) -> dict[str | None, str]:
    return {key: answer(locks, access, bearer(key)) for key in KEYS}


def only(*keys: str) -> dict[str | None, str]:
    return {key: "passes" if key in keys else "unauthenticated" for key in KEYS}


EVERYBODY = dict.fromkeys(KEYS, "passes")


def test_without_files_nobody_is_asked(tmp_path: Path) -> None:
    open_house = locks(tmp_path, clients=False, admins=False)
    assert all(answers(open_house, access) == EVERYBODY for access in Access)


@pytest.mark.parametrize("admins", [False, True])
def test_what_is_open_asks_nobody(tmp_path: Path, admins: bool) -> None:
    asking = locks(tmp_path, clients=True, admins=admins, metrics_key=True)
    assert answers(asking, Access.OPEN) == EVERYBODY


def test_one_file_is_good_for_everything(tmp_path: Path) -> None:
    asking = locks(tmp_path, clients=True, admins=False)
    assert answers(asking, Access.INFER) == only(CLIENT, OTHER_CLIENT)
    assert answers(asking, Access.ADMIN) == only(CLIENT, OTHER_CLIENT)


def test_with_two_files_clients_cannot_change_what_is_served(tmp_path: Path) -> None:
    asking = locks(tmp_path, clients=True, admins=True)
    assert answers(asking, Access.INFER) == only(CLIENT, OTHER_CLIENT, ADMIN)
    assert answers(asking, Access.ADMIN) == {
        **only(ADMIN),
        CLIENT: "forbidden",
        OTHER_CLIENT: "forbidden",
    }


def test_only_repository_calls_ask_where_only_their_file_is_given(tmp_path: Path) -> None:
    asking = locks(tmp_path, clients=False, admins=True)
    assert answers(asking, Access.INFER) == EVERYBODY
    assert answers(asking, Access.ADMIN) == only(ADMIN)


def test_metrics_ask_where_they_shall(tmp_path: Path) -> None:
    assert answers(locks(tmp_path, clients=True, admins=True), Access.METRICS) == EVERYBODY
    asking = locks(tmp_path, clients=True, admins=True, metrics_key=True)
    assert answers(asking, Access.METRICS) == only(CLIENT, OTHER_CLIENT, ADMIN)


@pytest.mark.parametrize("admins", [False, True])
def test_metrics_that_ask_for_keys_need_keys(tmp_path: Path, admins: bool) -> None:
    with pytest.raises(SettingsError, match="set OFFRAMP_KEYS_FILE too"):
        locks(tmp_path, clients=False, admins=admins, metrics_key=True)


@pytest.mark.parametrize("field", ["keys_file", "admin_keys_file"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(SettingsError, match=f"^OFFRAMP_{field.upper()}: .* cannot be read"):
        Locks(Settings(**{field: tmp_path / "nowhere"}))


@pytest.mark.parametrize("value", ["Bearer {}", "bearer {}", "BEARER   {}", "  Bearer {} "])
def test_the_scheme_is_read_as_http_has_it(tmp_path: Path, value: str) -> None:
    asking = locks(tmp_path, clients=True, admins=True)
    assert answer(asking, Access.INFER, value.format(CLIENT)) == "passes"


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        CLIENT,
        f"Basic {CLIENT}",
        f"Bearer{CLIENT}",
        f"Bearer {CLIENT}x",
    ],
)
def test_anything_else_is_no_key(tmp_path: Path, value: str) -> None:
    for access, admins in product((Access.INFER, Access.ADMIN, Access.METRICS), (False, True)):
        asking = locks(tmp_path, clients=True, admins=admins, metrics_key=True)
        assert answer(asking, access, value) == "unauthenticated"


def test_refusals_say_the_way_on_and_no_key(tmp_path: Path) -> None:
    asking = locks(tmp_path, clients=True, admins=True)
    with pytest.raises(Unauthenticated, match="no key; send Authorization: Bearer <key>"):
        asking.check(Access.INFER, None)
    with pytest.raises(Unauthenticated, match="not known here; send Authorization") as unknown:
        asking.check(Access.INFER, bearer(NOBODY))
    with pytest.raises(Forbidden, match="send an admin key") as forbidden:
        asking.check(Access.ADMIN, bearer(CLIENT))
    assert NOBODY not in str(unknown.value)
    assert CLIENT not in str(forbidden.value)
