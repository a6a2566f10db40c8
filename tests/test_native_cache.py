"""The compiled library: compilers, the cache, and who may have written what is loaded from it."""

from __future__ import annotations

import os
import platform
import pwd
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_inference import make_model
from test_native import play, start

from glam_env.fast import choose as native
from glam_env.fast.choose import make_stepper
from glam_env.fast.native import bindings, build, scan
from glam_env.fast.native.bindings import vector_sizes
from glam_env.fast.native.build import BuildError
from glam_env.fast.native.renderer import can_draw
from glam_env.fast.native.stepper import NativeStepper
from glam_env.fast.step import TorchStepper
from glam_env.model.world_model import WorldModel

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=native.missing())


@pytest.fixture
def model() -> WorldModel:
    return make_model()


@pytest.fixture(scope="module")
def stepped() -> tuple[WorldModel, Any, Any]:
    """Step a model in PyTorch, where its scan has this machine's library; return the results too.

    In an empty cache folder that library would be compiled first, and then again by each test.
    """
    model = make_model()
    state = start(model)
    return model, state, play(TorchStepper(model), state, slice(None))


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use an empty cache folder, with no library loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caches = (bindings.load_library, native.missing, native.available, scan.available)
    for function in caches:
        function.cache_clear()
    yield tmp_path
    for function in caches:
        function.cache_clear()


@pytest.fixture(scope="session")
def compiled() -> Path:
    """Return the library of this machine, compiled before the tests."""
    return build.compile_library()


@pytest.fixture
def compilations(compiled: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Use a compiler that only copies the compiled library; return how often it has run."""
    counted, compiler = fresh / "counted", fresh / "compiler"
    counted.touch()
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
        f'while [ "$1" != -o ]; do shift; done\necho >> {counted}\ncp {compiled} "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return lambda: len(counted.read_text())


# --- compilers ---------------------------------------------------------------------------------


def test_the_library_is_compiled_once(compilations, fresh, model) -> None:
    first, second = build.compile_library(), build.compile_library()
    assert first == second
    assert first.parent == fresh / "cache" / "glam_env" / "native" == build.cache_folder()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert compilations() == 1
    assert isinstance(make_stepper(model), NativeStepper)


def test_only_the_first_compilation_is_announced(compilations, monkeypatch, capsys, model) -> None:
    """The line is there before the compiler runs, and standard output stays free for figures."""
    run, announced = build._run, []

    def record(command: list[str]) -> str:
        if "-o" in command:
            announced.append(capsys.readouterr())
        return run(command)

    monkeypatch.setattr(build, "_run", record)
    for _ in range(2):
        bindings.load_library.cache_clear()  # as in another process
        assert isinstance(make_stepper(model), NativeStepper)
    (first,) = announced
    assert first.err == "glam_env: compiling the dreams' C++ for this CPU, once\n"
    assert first.out == ""
    assert capsys.readouterr() == ("", "")
    assert compilations() == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of that CPU")
@pytest.mark.parametrize(("option", "lanes"), [("-mno-avx512f", 8), ("-mno-avx", 4)])
def test_shorter_vectors_give_the_same_numbers(stepped, fresh, monkeypatch, option, lanes) -> None:
    """Compile for CPUs with shorter vectors, which have no native renderer."""
    described = Path("/proc/cpuinfo")
    if described.exists() and option.removeprefix("-mno-") not in described.read_text():
        pytest.skip("this CPU has no longer ones")
    model, state, expected = stepped
    monkeypatch.setenv("CXX", f"{' '.join(build.find_compiler())} {option}")
    assert vector_sizes().lanes <= lanes
    assert not can_draw()
    short = NativeStepper(model, precision="float32")
    assert native.describe() == "C++, float32"
    for one, other in zip(play(short, state, slice(None)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_without_a_compiler_auto_warns_once_and_pytorch_steps(fresh, monkeypatch, model) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    assert native.describe().startswith("PyTorch (no C++ compiler found")
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler found"):
        stepper = make_stepper(model)
    assert type(stepper) is TorchStepper
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(make_stepper(model)) is TorchStepper
    with pytest.raises(BuildError, match="no C"):
        make_stepper(model, backend="native")


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch) -> None:
    compiler = fresh / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho disk is full >&2\nexit 3\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match="disk is full"):
        build.compile_library()
    assert list(build.cache_folder().iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_folder_that_cannot_be_written_is_named(fresh: Path) -> None:
    (fresh / "cache").mkdir(mode=0o500)
    with pytest.raises(BuildError, match="cannot use"):
        build.compile_library()


# --- the cache ---------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [cut, empty, change, link, pipe])
def test_a_damaged_library_is_compiled_again(compilations, compiled, model, damage) -> None:
    """A library that is cut short would kill Python with SIGBUS, at each start."""
    library = build.compile_library()
    damage(library)
    assert build.compile_library() == library
    assert library.read_bytes() == compiled.read_bytes()
    assert not library.is_symlink()
    assert compilations() == 2
    assert isinstance(make_stepper(model), NativeStepper)


def everybody(path: Path) -> None:
    path.chmod(0o777)


def the_group(path: Path) -> None:
    path.chmod(0o770)


@pytest.mark.parametrize("place", ["folder", "library"])
@pytest.mark.parametrize("allow", [everybody, the_group])
def test_what_others_may_write_is_not_loaded(compilations, model, place, allow) -> None:
    library = build.compile_library()
    target = library if place == "library" else library.parent
    allow(target)
    with pytest.raises(BuildError, match=f"others may write {target}"):
        build.compile_library()
    with pytest.warns(RuntimeWarning, match="others may write"):
        assert type(make_stepper(model)) is TorchStepper
    target.chmod(0o700)
    assert build.compile_library() == library
    assert compilations() == 1


@pytest.mark.parametrize("place", ["folder", "library"])
def test_what_another_user_owns_is_not_loaded(compilations, model, monkeypatch, place) -> None:
    """Root's files are accepted: a system administrator may compile for all users."""
    library = build.compile_library()
    target = library if place == "library" else library.parent
    if os.geteuid() == 0:
        os.chown(target, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: target.stat().st_uid + 1)
    with pytest.raises(BuildError, match=f"{target} belongs to another user"):
        build.compile_library()
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert type(make_stepper(model)) is TorchStepper
    if os.geteuid() == 0:
        os.chown(target, 0, 0)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert build.compile_library() == library


def test_the_library_is_on_the_disk_before_it_has_its_name(compilations, monkeypatch) -> None:
    events = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "library")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    build.compile_library()
    assert events == ["library", "rename", "folder"]


def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def relative_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")


def relative_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "somewhere")


def open_quote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ '")


def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "  ")


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")


def a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", __file__)


@pytest.mark.parametrize(
    ("misfortune", "says"),
    [
        (no_home, "there is no home folder"),
        (relative_cache, "XDG_CACHE_HOME must be an absolute path, got 'cache'"),
        (relative_home, "HOME must be an absolute path, got 'somewhere'"),
        (open_quote, "is not a command: No closing quotation"),
        (blank, "is not a command: name a C"),
        (absent, "/no/such/compiler --version did not run"),
        (a_file, "cannot use .*Not a directory"),
    ],
)
def test_pytorch_steps_after_one_warning_of_one_line(
    compilations, model, monkeypatch, tmp_path, misfortune, says
) -> None:
    monkeypatch.chdir(tmp_path)
    misfortune(monkeypatch)
    with pytest.warns(RuntimeWarning, match=says) as seen:
        steppers = [make_stepper(model), make_stepper(model)]
    assert [type(stepper) for stepper in steppers] == [TorchStepper] * 2
    assert len(seen) == 1
    assert "\n" not in str(seen[0].message)
    assert native.describe().startswith("PyTorch (")
    with pytest.raises(BuildError, match=says):
        make_stepper(model, backend="native")
    assert compilations() == 0
    assert not (tmp_path / "cache").exists()
