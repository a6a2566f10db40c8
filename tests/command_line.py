"""What the tests of the command line share."""

from glam_env.cli.main import main


def mistake(capsys, *words: str) -> str:
    """Run a command that must fail with exit code 2 and one line, and return the line."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("glam: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err


def mistake_after_progress(capsys, *words: str) -> str:
    """Run a command that must fail after a library has shown its progress; return our line."""
    assert main(list(words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("glam: ")]
    assert len(lines) == 1
    return lines[0] + "\n"
