"""The user's cache folder, and whether JAX keeps its compilations there."""

import os

import pytest

from landmarks_jax.system import cache as caches
from tests.running import command, finish


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(caches.COMPILATIONS)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # whatever is set goes again


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert caches.folder() == tmp_path / "landmarks_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.folder() == tmp_path / ".cache" / "landmarks_jax"


def test_compilations_are_kept_in_it(tmp_path):
    caches.enable_compilation_cache()
    kept = tmp_path / "landmarks_jax" / "compilations"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(kept)
    assert kept.is_dir()


@pytest.mark.parametrize("place", ["/elsewhere", ""])
def test_the_users_own_place_or_none_holds(place, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", place)
    caches.enable_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == place
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_kept_nothing_is_asked_for(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    caches.enable_compilation_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_commands_set_it_before_jax_is_imported(tmp_path):
    code = """
import dataclasses
from landmarks_jax.cli import main, train

def run(call):
    import jax
    print(jax.config.jax_compilation_cache_dir)

train.COMMAND = dataclasses.replace(train.COMMAND, run=run)
main.main(["train", "--workdir=unused"])  # whose configuration imports JAX
"""
    status, out, err = finish(command(code=code))
    assert status == 0, err
    assert out.strip() == str(tmp_path / "landmarks_jax" / "compilations")
