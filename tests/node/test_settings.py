"""Settings: who wins, every fault at once with its place, and a worker that comes to the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cis.errors import ConfigError
from cis.model.scope import parse_scope
from cis.model.scope_rules import NO_RULES, ScopeRules
from cis.node.home import Home
from cis.node.settings import OPTIONS, Settings, default_node_id, load_settings

names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True)
counts = st.integers(min_value=1, max_value=1_000_000)
durations = st.integers(min_value=0, max_value=10**14).map(lambda microseconds: microseconds / 1e6)


def made(**fields: Any) -> Settings:
    """Return settings of these fields, the others as they are by default."""
    return Settings(**fields)


any_settings = st.builds(
    made,
    node_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", fullmatch=True),
    host=st.from_regex(r"[a-z0-9:.]{1,40}", fullmatch=True),
    port=st.integers(min_value=0, max_value=65535),
    labels=st.lists(names).map(tuple),
    accept_broadcast=st.booleans(),
    max_workers=counts,
    slots=counts,
    idle_timeout_s=durations,
    grace_s=durations,
    lease_s=st.floats(min_value=1, max_value=1e8),
    max_log_bytes=st.integers(min_value=1, max_value=2**50),
    nice=st.integers(min_value=0, max_value=19),
    pass_env=st.lists(names).map(tuple),
    max_queued=counts,
    max_age_s=st.none() | st.floats(min_value=1, max_value=3e8),
    max_runs=st.none() | counts,
    max_log_age_s=st.none() | st.floats(min_value=1, max_value=3e8),
    prune_every_s=st.floats(min_value=1, max_value=1e8),
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home without settings."""
    return Home(tmp_path)


def faults_of(home: Home, text: str, **environ: str) -> dict[str, str]:
    """Return the faults of a file and an environment, by place."""
    home.toml.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(home, environ=environ)
    return {fault.place.removeprefix("cis.toml: "): fault.message for fault in caught.value.faults}


def test_without_a_file_everything_has_its_default(home: Home) -> None:
    assert load_settings(home, environ={}) == Settings(
        node_id=default_node_id(), slots=load_settings(home, environ={}).slots
    )


@pytest.mark.parametrize("flag", [None, 1])
@pytest.mark.parametrize("environ", [{}, {"CIS_PORT": ""}, {"CIS_PORT": "2"}])
@pytest.mark.parametrize("text", ["", "[node]\nport = 3\n"])
def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    home: Home, text: str, environ: dict[str, str], flag: int | None
) -> None:
    home.toml.write_text(text)
    found = load_settings(home, environ=environ, flags={"port": flag}).port

    assert found == flag or int(environ.get("CIS_PORT") or 0) or (3 if text else 6767)
    if flag is None and not environ.get("CIS_PORT"):
        assert found == (3 if text else 6767)


@given(wanted=any_settings)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_process_with_these_variables_comes_to_these_very_settings(home: Home, wanted: Settings) -> None:
    assert load_settings(home, environ=wanted.to_environ()) == wanted


@pytest.mark.parametrize("seconds", ["0.00001", "5e-324", "-0.0", "1.5e-7"])
def test_a_worker_gets_what_a_flag_said_and_not_what_the_file_says(home: Home, seconds: str) -> None:
    home.toml.write_text(f"[worker]\ngrace = {seconds}\nslots = 3\n")
    node = load_settings(home, environ={}, flags={"node_id": "given"})

    assert load_settings(home, environ=node.to_environ()) == node


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("[node]\nid = '../x'", "node.id", ""),
        ("[node]\nid = 7", "node.id", "must be a string"),
        ("[node]\nhost = ''", "node.host", "not empty"),
        ("[node]\nport = 65536", "node.port", "from 0 to 65535"),
        ("[node]\nport = true", "node.port", "whole number"),
        ("[worker]\nnice = 20", "worker.nice", "from 0 to 19"),
        ("[worker]\nnice = -1", "worker.nice", "from 0 to 19"),
        ("[node]\nport = 1.5", "node.port", "whole number"),
        ("[node]\nlabels = [1]", "node.labels", "list of strings"),
        ("[node]\nlabels = ['a,b']", "node.labels", "without commas"),
        ("[node]\naccept_broadcast = 'perhaps'", "node.accept_broadcast", "true or false"),
        ("[worker]\nslots = 0", "worker.slots", "from 1"),
        ("[worker]\ngrace = 'soon'", "worker.grace", "500ms, 10s, 5m"),
        ("[worker]\nidle_timeout = -1", "worker.idle_timeout", "from 0"),
        ("[worker]\nlease = 0.5", "worker.lease", "at least 1 s"),
        ("[worker]\nmax_log = '12 elephants'", "worker.max_log", "100MiB"),
        ("[worker]\nmax_log = 0", "worker.max_log", "is not a size"),
        ("[worker]\nmax_wrokers = 1", "worker.max_wrokers", "did you mean 'max_workers'"),
        ("[worker]\nzzz = 1", "worker.zzz", "known: max_workers"),
        ("[wroker]", "wroker", "did you mean 'worker'"),
        ("node = 1", "node", "must be a table"),
        ("[matrix]\nhomesever = 'x'", "matrix.homesever", "did you mean 'homeserver'"),
        ("[matrix]\nroom_id = 1", "matrix.room_id", "must be a string"),
        ("[matrix]\nallow = 'everybody'", "matrix.allow", "must be tables"),
        ("[[matrix.allow]]\nmay = ['read']", "matrix.allow[0]", "needs user_id"),
        ("[[matrix.allow]]\nuser_id = '@a:b'\nmay = ['rule']", "matrix.allow[0].may", "read, execute, control"),
        ("[[matrix.allow]]\nuser_id = '@a:b'\nmya = []", "matrix.allow[0].mya", "did you mean 'may'"),
        ("[[matrix.allow]]\nuser_id = '@a:b'\nscopes = ['x']", "matrix.allow[0].scopes", "not a scope"),
        ("scope = 3", "scope", "must be tables"),
        ("[scope]\nslots = 3", 'scope."slots"', "must be a table"),
        ("[scope.'project:a'.env]\nCIS_X = '1'", 'scope."project:a".env', "choose another name"),
        ("[scope.'project:a'.env]\nX = 1.5", 'scope."project:a".env', "must be a string"),
        ("[scope.'project:a']\nslots = 0", 'scope."project:a".slots', "from 1"),
        ("[scope.'project:a']\nmax_runs = true", 'scope."project:a".max_runs', "whole number"),
        ("[scope.'project:a']\nmax_queud = 1", 'scope."project:a".max_queud', "did you mean 'max_queued'"),
        ("[scope.'project:a']\nsecrets = 'A'", 'scope."project:a".secrets', "list of names"),
        ("[scope.'project:*a']", 'scope."project:*a"', "at the end only"),
        ("[scope.'projekt:*']", 'scope."projekt:*"', "matches no scope"),
        ("[scopes]", "scopes", "did you mean 'scope'"),
    ],
)
def test_a_fault_is_told_with_its_place_and_the_mend(home: Home, line: str, place: str, words: str) -> None:
    faults = faults_of(home, line + "\n")

    assert list(faults) == [place]
    assert words in faults[place]


def test_all_faults_are_told_at_once_those_of_the_environment_too(home: Home) -> None:
    faults = faults_of(home, "[node]\nport = -1\nlables = []\n[worker]\nslots = 'x'\n", CIS_GRACE="soon", CIS_LEASE="0")

    assert set(faults) == {"node.port", "node.lables", "worker.slots", "CIS_GRACE", "CIS_LEASE"}


@pytest.mark.parametrize("data", [b"[node", b"\xff\xfe", b"a = 1" + b"0" * 5000, b"a = " + b"[" * 50_000])
def test_a_file_that_is_no_toml_is_one_fault_that_names_it(home: Home, data: bytes) -> None:
    home.toml.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_settings(home, environ={})

    assert [fault.place for fault in caught.value.faults] == [str(home.toml)]


def test_the_example_of_the_contract_is_accepted(home: Home) -> None:
    home.toml.write_text("""
        [node]
        id = "node-1"
        labels = ["gpu"]
        [worker]
        idle_timeout = "5m"
        pass_env = ["SSH_AUTH_SOCK"]
        max_log = "1GiB"
        [matrix]
        homeserver = "https://matrix.example.org"
        user_id = "@node-1:example.org"
        access_token_file = "matrix.token"
        room_id = "!abc:example.org"
        [[matrix.allow]]
        user_id = "@alice:example.org"
        may = ["read", "execute", "control"]
        scopes = ["project:proj-a"]
        [scope."project:proj-a"]
        slots = 2
        max_runs = 1
        env = {TIER = "test"}
        max_queued = 1000
        secrets = ["DB_PASSWORD"]
        [secrets]
        DB_PASSWORD = {file = "secrets/db_password", scopes = ["project:proj-a"]}
    """)
    found = load_settings(home, environ={})

    assert (found.node_id, found.labels, found.pass_env) == ("node-1", ("gpu",), ("SSH_AUTH_SOCK",))
    assert (found.idle_timeout_s, found.max_log_bytes) == (300.0, 2**30)
    assert found.allow[0].scopes == ("project:proj-a",)
    assert found.rules_of(parse_scope("project:proj-a")) == ScopeRules(
        slots=2, max_runs=1, max_queued=1000, env={"TIER": "test"}, secrets=("DB_PASSWORD",)
    )
    assert found.rules_of(parse_scope("project:proj-ab")) == NO_RULES


def test_all_faults_of_all_tables_of_scopes_are_told_at_once(home: Home) -> None:
    text = """
        [scope."x"]
        slots = 0
        secrets = ["A B"]
        [scope."user:*"]
        env = []
        [secrets]
        A = {file = "x", scopes = ["nobody"]}
    """

    places = faults_of(home, text).keys()

    assert places == {'scope."x"', 'scope."x".slots', 'scope."x".secrets', 'scope."user:*".env', "secrets.A"}


def test_every_setting_has_a_place_and_a_variable_of_its_own() -> None:
    assert {option.field for option in OPTIONS} == set(Settings._fields) - {"allow", "scopes"}  # tables
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS)
    assert len({(option.section, option.key) for option in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize(("key", "field"), [("max_age", "max_age_s"), ("max_runs", "max_runs")])
def test_what_is_to_be_kept_for_ever_is_written_as_all(home: Home, key: str, field: str) -> None:
    home.toml.write_text(f'[retention]\n{key} = "all"\n')
    found = load_settings(home, environ={})

    assert getattr(found, field) is None
    assert load_settings(home, environ=found.to_environ()) == found
    assert faults_of(home, f"[retention]\n{key} = 0\n").keys() == {f"retention.{key}"}
